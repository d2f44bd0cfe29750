//! What was made at run time, kept across restarts: one redb database in the state directory.
//!
//! ```text
//! table `hybrid-connections`: path in lower case -> record
//! gateway-7 -> {"path":"Gateway-7","made-by":"on-demand","requires-client-authorization":true,
//!               "created-at":1795471375,"updated-at":1795471375}
//! ```
//!
//! A change is acknowledged when the transaction that it is in has been committed: a crash at any moment leaves the state
//! before or after. One thread writes, so that the relay never waits for a disk, and what comes meanwhile goes together into
//! the next transaction. After a write that failed, the database is opened anew for the next one. Why redb, and what else was
//! tried: [decision 0013](../../../docs/decisions/0013-state-in-redb.md).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use umbilical_relay_protocol::{entity_key, is_entity_path};

mod error;

pub use error::StoreError;

const FILE: &str = "hybrid-connections.redb";

/// A database is made under this name and gets its own when it is one: a crash leaves no half of one.
const NEW_FILE: &str = "hybrid-connections.redb.new";

const TABLE: TableDefinition<&str, &str> = TableDefinition::new("hybrid-connections");

/// All records are read once, at the start, and none after that.
const CACHE_BYTES: usize = 1024 * 1024;

/// A hybrid connection that was made at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) path: String,
    pub(crate) made_by: Maker,
    pub(crate) requires_client_authorization: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_metadata: Option<String>,
    /// In Unix seconds.
    pub(crate) created_at: u64,
    /// In Unix seconds.
    pub(crate) updated_at: u64,
}

/// How it came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Maker {
    /// Somebody with the right to manage asked for it.
    Management,
    /// A listener came.
    OnDemand,
}

/// The open database. Dropping it waits for what is being written.
pub(crate) struct Store {
    directory: PathBuf,
    changes: Option<Sender<Change>>,
    writer: Option<JoinHandle<()>>,
}

struct Change {
    what: What,
    /// Hears whether it is on the disk.
    done: Sender<bool>,
}

/// By key.
enum What {
    Put(String, String),
    Remove(Vec<String>),
}

impl Store {
    /// Opens what there is in `directory`, which is made if only it is missing, and checks all of it.
    ///
    /// # Errors
    /// [`StoreError`]; then no record in it has changed.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Vec<Record>), StoreError> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Io { doing: "make", path: directory.into(), source });
            }
            _ => {}
        }
        let path = directory.join(FILE);
        match fs::exists(&path) {
            Ok(true) => {}
            Ok(false) => create(directory)?,
            Err(source) => return Err(StoreError::Io { doing: "open", path, source }),
        }
        let database = open(&path)?;
        let records = read(&database, &path)?;
        let (changes, received) = unbounded();
        let mut writer = Writer { path, database: Some(database) };
        let thread = thread::Builder::new().name("state".into()).spawn(move || writer.serve(&received));
        let thread = thread.map_err(|source| StoreError::Io {
            doing: "start a thread to write",
            path: directory.join(FILE),
            source,
        })?;
        Ok((Self { directory: directory.into(), changes: Some(changes), writer: Some(thread) }, records))
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds a record, in place of one with the same path. Returns when it is on the disk.
    ///
    /// # Errors
    /// It is not, and the log says why.
    pub(crate) async fn put(&self, record: Record) -> Result<(), NotKept> {
        let value = serde_json::to_string(&record).map_err(|_| NotKept)?;
        self.change(What::Put(entity_key(&record.path), value)).await
    }

    /// Takes the records of these paths out, all or none. Returns when that is on the disk.
    ///
    /// # Errors
    /// As for [`Store::put`].
    pub(crate) async fn remove(&self, paths: &[String]) -> Result<(), NotKept> {
        self.change(What::Remove(paths.iter().map(|path| entity_key(path)).collect())).await
    }

    async fn change(&self, what: What) -> Result<(), NotKept> {
        let (done, outcome) = bounded(1);
        let changes = self.changes.as_ref().ok_or(NotKept)?;
        changes.try_send(Change { what, done }).map_err(|_| NotKept)?;
        match outcome.recv().await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(NotKept),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(writer) = self.writer.take() {
            // a panic of the writer has been reported by itself
            let _ = writer.join();
        }
    }
}

/// A change that is not on the disk.
#[derive(Debug)]
pub(crate) struct NotKept;

struct Writer {
    path: PathBuf,
    /// `None` after a write that failed: redb then writes no more.
    database: Option<Database>,
}

impl Writer {
    fn serve(&mut self, changes: &Receiver<Change>) {
        while let Ok(first) = changes.recv_blocking() {
            let mut together = vec![first];
            while let Ok(next) = changes.try_recv() {
                together.push(next);
            }
            let outcome = self.write(&together);
            if let Err(error) = &outcome {
                log::error!("{error}");
            }
            for change in together {
                let _ = change.done.try_send(outcome.is_ok());
            }
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        commit(&database, changes).map_err(|error| StoreError::of("write", &self.path, error))?;
        self.database = Some(database);
        Ok(())
    }
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for change in changes {
            match &change.what {
                What::Put(key, value) => {
                    table.insert(key.as_str(), value.as_str())?;
                }
                What::Remove(keys) => {
                    for key in keys {
                        table.remove(key.as_str())?;
                    }
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

/// Makes a database without records.
fn create(directory: &Path) -> Result<(), StoreError> {
    let new = directory.join(NEW_FILE);
    let failed = |doing: &'static str| {
        let path = new.clone();
        move |source| StoreError::Io { doing, path, source }
    };
    // only for its mode
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new);
    drop(file.map_err(failed("make"))?);
    let made = Builder::new().create(&new).map_err(redb::Error::from).and_then(|database| commit(&database, &[]));
    made.map_err(|error| StoreError::of("make", &new, error))?;
    fs::rename(&new, directory.join(FILE)).map_err(failed("rename"))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("rename"))
}

/// Opens the database with every page of it checked: one that was damaged is an error, not a surprise later on.
fn open(path: &Path) -> Result<Database, StoreError> {
    let opened = Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path);
    opened.map_err(|error| StoreError::of("open", path, error.into()))
}

fn read(database: &Database, path: &Path) -> Result<Vec<Record>, StoreError> {
    let rows = rows(database).map_err(|error| StoreError::of("read", path, error))?;
    let record = |(key, value): (String, String)| {
        record(&key, &value)
            .map_err(|fault| StoreError::Damaged { path: path.into(), fault: format!("{key:?}: {fault}") })
    };
    rows.into_iter().map(record).collect()
}

fn rows(database: &Database) -> Result<Vec<(String, String)>, redb::Error> {
    let mut rows = Vec::new();
    for row in database.begin_read()?.open_table(TABLE)?.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(rows)
}

fn record(key: &str, value: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(value).map_err(|error| error.to_string())?;
    if !is_entity_path(&record.path) || entity_key(&record.path) != key {
        return Err(format!("it is the record of {:?}", record.path));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use smol::block_on;

    use super::*;

    fn record(path: &str) -> Record {
        Record {
            path: path.into(),
            made_by: Maker::OnDemand,
            requires_client_authorization: true,
            user_metadata: Some("\"a\"\n".into()),
            created_at: 1,
            updated_at: 2,
        }
    }

    fn open(directory: &Path) -> (Store, Vec<Record>) {
        Store::open(directory).unwrap_or_else(|error| panic!("{error}"))
    }

    fn refused(directory: &Path) -> String {
        Store::open(directory).err().unwrap().to_string()
    }

    #[test]
    fn what_was_kept_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("made");
        let (store, records) = open(&directory);
        assert_eq!(records, []);
        block_on(store.put(record("b"))).unwrap();
        block_on(store.put(record("A"))).unwrap();
        block_on(store.put(Record { updated_at: 3, ..record("a") })).unwrap();
        block_on(store.put(record("c"))).unwrap();
        block_on(store.put(record("d"))).unwrap();
        block_on(store.remove(&["C".into(), "d".into(), "never-there".into()])).unwrap();
        drop(store);
        assert_eq!(open(&directory).1, [Record { updated_at: 3, ..record("a") }, record("b")]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
        assert!(!directory.join(NEW_FILE).exists());
    }

    #[test]
    fn changes_that_come_together_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        let paths: Vec<_> = (0..500).map(|n| format!("gateway-{n:04}")).collect();
        let executor = smol::LocalExecutor::new();
        let puts: Vec<_> = paths.iter().map(|path| executor.spawn(store.put(record(path)))).collect();
        block_on(executor.run(async {
            for put in puts {
                put.await.unwrap();
            }
        }));
        drop(executor);
        drop(store);
        assert_eq!(open(directory.path()).1.iter().map(|record| record.path.clone()).collect::<Vec<_>>(), paths);
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let (store, _) = open(directory.path());
        for n in 0..50 {
            block_on(store.put(record(&format!("gateway-{n}")))).unwrap();
        }
        drop(store);
        let good = fs::read(&path).unwrap();
        let record_at = good.windows(10).rposition(|window| window == b"gateway-49").unwrap();
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let zeroed = [&good[..4096], &[0; 4096], &good[8192..]].concat();
        let text = b"{\"version\":1}".to_vec();
        for damaged in [Vec::new(), text, good[..good.len() / 2].to_vec(), zeroed, flipped(0), flipped(record_at)] {
            fs::write(&path, &damaged).unwrap();
            let error = refused(directory.path());
            assert!(error.contains("is damaged") && error.contains(path.to_str().unwrap()), "{error}");
            assert!(fs::read(&path).unwrap() == damaged, "it is as it was");
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(open(directory.path()).1.len(), 50);
    }

    #[test]
    fn a_record_that_is_none_is_named() {
        let json = serde_json::to_string(&record("A")).unwrap();
        assert_eq!(super::record("a", &json), Ok(record("A")));
        for (key, value, fault) in [
            ("b", json.clone(), "the record of \"A\""),
            ("a", json.replace("\"A\"", "\"a b\""), "the record of \"a b\""),
            ("a", json.replace("on-demand", "magic"), "magic"),
            ("a", json.replace("{", "{\"expires\":7,"), "unknown field `expires`"),
            ("a", String::new(), "EOF"),
        ] {
            let error = super::record(key, &value).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_crash_while_it_is_made_leaves_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NEW_FILE), "half of").unwrap();
        let (store, records) = open(directory.path());
        assert_eq!(records, []);
        block_on(store.put(record("a"))).unwrap();
    }

    #[test]
    fn only_one_process_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        let error = Store::open(directory.path()).err().unwrap();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
        drop(store);
        open(directory.path());
    }

    #[test]
    fn where_it_cannot_be_it_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert!(refused(&directory.path().join("x/y")).contains("cannot make"));
        fs::create_dir(directory.path().join(FILE)).unwrap();
        assert!(refused(directory.path()).contains("cannot open"));
    }
}
