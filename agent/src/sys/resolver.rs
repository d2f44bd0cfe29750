//! News of how names are resolved (inotify(7) on resolv.conf(5)): a device that boots faster than its network has no name
//! server yet.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use smol::Async;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Hears of changes of resolv.conf, from its making on.
#[derive(Debug)]
pub(super) struct ResolverNews {
    changes: Async<Inotify>,
    /// Names of the file, where links lead to it too.
    names: Vec<PathBuf>,
}

impl ResolverNews {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new() -> io::Result<ResolverNews> {
        ResolverNews::of(Path::new(RESOLV_CONF))
    }

    fn of(file: &Path) -> io::Result<ResolverNews> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let target = fs::canonicalize(file).ok().filter(|target| target != file);
        let names: Vec<_> = [file.to_owned()].into_iter().chain(target).collect();
        // directories, as the file may be another one each time; one that is not there has no news
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        let watched = names.iter().filter_map(|name| name.parent()).map(|parent| inotify.add_watch(parent, flags));
        let watched = watched.collect::<Vec<_>>();
        match watched.into_iter().find_map(Result::ok) {
            Some(_) => Ok(ResolverNews { changes: Async::new(inotify)?, names }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Waits until it was written or exchanged.
    ///
    /// # Errors
    /// The kernel's; no more news will come.
    pub(super) async fn changed(&self) -> io::Result<()> {
        loop {
            let events = self.changes.read_with(|changes| Ok(changes.read_events()?)).await?;
            let is_it = |name: &OsStr| self.names.iter().any(|known| known.file_name() == Some(name));
            if events.iter().any(|event| event.name.as_deref().is_some_and(is_it)) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use smol::{Timer, future};

    use super::*;

    fn heard(news: &ResolverNews) {
        let late = async {
            Timer::after(Duration::from_secs(20)).await;
            panic!("no news");
        };
        smol::block_on(future::or(news.changed(), late)).unwrap();
    }

    #[test]
    fn it_is_heard_of_however_it_is_changed_and_other_files_are_not() {
        let directory = std::env::temp_dir().join(format!("umbilical-resolver-{}", std::process::id()));
        let (etc, run) = (directory.join("etc"), directory.join("run"));
        for part in [&etc, &run] {
            fs::create_dir_all(part).unwrap();
        }
        let file = etc.join("resolv.conf");
        let news = ResolverNews::of(&file).unwrap();
        let nothing = || assert!(smol::block_on(future::poll_once(news.changed())).is_none());
        fs::write(etc.join("hosts"), "x").unwrap();
        nothing();
        fs::write(&file, "nameserver 192.0.2.1").unwrap();
        heard(&news);
        fs::write(etc.join("new"), "nameserver 192.0.2.2").unwrap();
        fs::rename(etc.join("new"), &file).unwrap();
        heard(&news);
        // a link to where something else writes it
        fs::remove_file(&file).unwrap();
        fs::write(run.join("stub"), "").unwrap();
        symlink(run.join("stub"), &file).unwrap();
        let news = ResolverNews::of(&file).unwrap();
        fs::write(run.join("stub"), "nameserver 192.0.2.3").unwrap();
        heard(&news);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_machine_without_the_directory_has_no_news() {
        assert_eq!(ResolverNews::of(Path::new("/nowhere/resolv.conf")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
