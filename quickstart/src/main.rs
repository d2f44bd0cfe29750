//! `cargo quickstart`: Umbilical on one machine, in one command.
//!
//! It builds the two programs, makes throw-away keys and certificates, writes `agent.toml` and `cloud.toml` with comments,
//! starts both as ordinary processes, shows what to try, and ends them on Ctrl-C. The "device" is this process: it serves
//! a page on loopback that nobody is told about; what reaches it came through the tunnel.
//!
//! In order of use:
//!
//! | file | owns |
//! | --- | --- |
//! | `arguments.rs` | the command line |
//! | `binaries.rs` | building `umbilical-agent` and `umbilical-cloud` |
//! | `plan.rs` | addresses and names of this run |
//! | `credentials.rs` | keys and certificates |
//! | `configuration.rs` | the two files, and the folder they are in |
//! | `demo_page.rs` | the page of the device |
//! | `child.rs` | a started program, its log, its end |
//! | `http.rs` | one GET request |
//! | `status.rs` | the cloud's figures, and the line that shows them |
//! | `screen.rs` | what is printed |
//! | `error.rs` | what can go wrong, and what to do then |

mod arguments;
mod binaries;
mod child;
mod configuration;
mod credentials;
mod demo_page;
mod error;
mod http;
mod plan;
mod screen;
mod status;

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use async_signal::{Signal, Signals};
use smol::{Timer, future, stream::StreamExt};

use crate::{
    arguments::{Arguments, Wish},
    binaries::Binaries,
    child::Child,
    error::Error,
    plan::Plan,
    screen::Screen,
    status::{Link, Status},
};

/// From the start of both programs to the first page through the tunnel. It takes a fraction of a second; the rest is for busy machines.
const READY_WITHIN: Duration = Duration::from_secs(30);
const STATUS_EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut screen = Screen::new();
    match Wish::from_command_line() {
        Ok(Wish::Help) => {
            screen.say(arguments::HELP);
            ExitCode::SUCCESS
        }
        Ok(Wish::Run(arguments)) => match smol::block_on(run(&arguments, &mut screen)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                screen.complain(&error);
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            screen.complain(&error);
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: &Arguments, screen: &mut Screen) -> Result<(), Error> {
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup]).map_err(Error::Signals)?;
    let folder = configuration::claim(&arguments.folder)?;
    screen.say("building umbilical-agent and umbilical-cloud (the first time takes a few minutes)");
    let binaries = binaries::build()?;

    let page = demo_page::bind().await?;
    let plan = Plan::make(folder, page.address).await?;
    configuration::write(&plan)?;
    screen.say(&format!("keys, certificates, agent.toml and cloud.toml are in {}", plan.folder.display()));

    future::or(run_tunnel(arguments, &plan, &binaries, screen, &mut signals), page.serve()).await
}

/// Starts both programs, shows them at work and ends them.
async fn run_tunnel(
    arguments: &Arguments,
    plan: &Plan,
    binaries: &Binaries,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Result<(), Error> {
    let mut cloud = Child::start("cloud", &binaries.cloud, &["run", "--config"], plan)?;
    let mut agent = Child::start("agent", &binaries.agent, &["--config"], plan)?;
    let agent_id = agent.id();
    screen.say(&format!("started the cloud (process {}) and the agent (process {agent_id})", cloud.id()));

    let used = async {
        let page = first_page(plan).await?;
        screen.say("the device's page came through the tunnel");
        if arguments.check {
            screen.say(&page);
            return Ok(());
        }
        screen.explain(plan, binaries, agent_id);
        show_status(plan, screen).await
    };
    let interrupted = async {
        signals.next().await;
        Ok(())
    };
    let died = future::or(cloud.died(), agent.died());
    let outcome = future::or(interrupted, future::or(died, used)).await;
    screen.end_status();
    // The agent first: it says goodbye to the relay while there is one.
    agent.stop().await;
    cloud.stop().await;
    outcome
}

/// Waits for a link, then asks for the page through the tunnel until it comes.
async fn first_page(plan: &Plan) -> Result<String, Error> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let status = Status::ask(plan.admin).await;
        let page = match status.link() {
            Some(Link::Up) => http::get(plan.page_exposure, "/").await,
            _ => Err(io::Error::new(io::ErrorKind::NotConnected, status.to_string())),
        };
        match page {
            Ok(page) => return Ok(page),
            Err(error) if Instant::now() > deadline => {
                return Err(Error::NoPage { folder: plan.folder.clone(), error });
            }
            Err(_) => _ = Timer::after(Duration::from_millis(50)).await,
        }
    }
}

/// Shows the cloud's figures until the end of the program.
async fn show_status(plan: &Plan, screen: &mut Screen) -> Result<(), Error> {
    loop {
        screen.show_status(&Status::ask(plan.admin).await);
        Timer::after(STATUS_EVERY).await;
    }
}
