//! Who runs the tasks: one thread for each core, of which only the first waits for sockets.
//!
//! It runs what their events wake by itself, and calls the others one by one only while there is more to run at once.
//! Were all of them to wait, most events would wake a task on another thread than the one that heard of them: two
//! wake-ups for each keystroke instead of one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use smol::Executor;
use smol::future::{or, yield_now};

/// Tasks that the first thread runs before it looks at the sockets again.
const TASKS_AT_ONCE: usize = 64;

/// Runs `work` on an executor with a thread for each core of the machine.
pub fn on_all_cores<T>(work: impl AsyncFnOnce(&Arc<Executor<'static>>) -> T) -> T {
    let executor = Arc::new(Executor::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut helpers = Vec::new();
        for number in 1..cores {
            let threads = thread::Builder::new().name(format!("executor-{number}"));
            // one thread less is slower, not wrong
            if let Ok(helper) = threads.spawn_scoped(scope, || help(&executor, &over)) {
                helpers.push(helper.thread().clone());
            }
        }
        let _dismissed = Dismissed { over: &over, helpers: &helpers };
        smol::block_on(lead(&executor, &helpers, work(&executor)))
    })
}

/// Lets the helpers end when dropped: also after a panic, or the scope would wait for them for ever.
struct Dismissed<'h> {
    over: &'h AtomicBool,
    helpers: &'h [Thread],
}

impl Drop for Dismissed<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.helpers.iter().for_each(Thread::unpark);
    }
}

/// Runs tasks until `work` is done, alone as long as there is one at a time.
async fn lead<T>(executor: &Executor<'_>, helpers: &[Thread], work: impl Future<Output = T>) -> T {
    // Tasks run since there was last nothing to run.
    let in_a_row = Cell::new(0_usize);
    let tasks = async {
        loop {
            executor.tick().await;
            in_a_row.set(in_a_row.get() + 1);
            if in_a_row.get() > 1
                && let Some(helper) = helpers.get(in_a_row.get() % helpers.len().max(1))
            {
                helper.unpark();
            }
            if in_a_row.get() == TASKS_AT_ONCE {
                yield_now().await;
            }
        }
    };
    let mut both = pin!(or(work, tasks));
    poll_fn(|cx| {
        in_a_row.set(0);
        both.as_mut().poll(cx)
    })
    .await
}

/// Runs what there is to run each time it is called.
fn help(executor: &Executor<'_>, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        while executor.try_tick() {}
        thread::park();
    }
}
