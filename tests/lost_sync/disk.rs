//! What may a disk hold after the power fails, given the writes and syncs of a program so far?
//!
//! Of a file: what was written before a sync that has ended, for certain; of what came later, anything: each
//! write may be there, missing, or torn at a sector. Of a folder likewise: a name is there for certain once
//! the folder was synced; a file may be whole on disk and yet have no name. That is less than most file systems promise,
//! and all that can be relied on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

/// One call that changed something, in the order in which the disk may have seen it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create { inode: u64, path: PathBuf },
    CreateFolder { inode: u64, path: PathBuf },
    Write { inode: u64, path: PathBuf, offset: u64, data: Vec<u8> },
    Resize { inode: u64, path: PathBuf, size: u64 },
    SyncBegins { inode: u64, path: PathBuf, serial: u64 },
    SyncEnds { serial: u64 },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
}

/// Reads the log that `shim.c` writes.
pub(crate) fn read_log(path: &Path) -> Vec<Event> {
    let log = std::fs::read(path).unwrap();
    let mut rest = log.as_slice();
    let mut events = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        let mut number = || {
            let (bytes, after) = rest.split_first_chunk().expect("the log ends within a record");
            rest = after;
            u64::from_ne_bytes(*bytes)
        };
        let (inode, offset, length, first, second) = (number(), number(), number(), number(), number());
        let mut bytes = |count: u64| {
            let (bytes, after) = rest.split_at(usize::try_from(count).unwrap());
            rest = after;
            bytes
        };
        let mut name = |count| PathBuf::from(String::from_utf8(bytes(count).to_vec()).unwrap());
        let (path, other) = (name(first), name(second));
        events.push(match kind {
            b'C' => Event::Create { inode, path },
            b'M' => Event::CreateFolder { inode, path },
            b'W' => Event::Write { inode, path, offset, data: bytes(length).to_vec() },
            b'T' => Event::Resize { inode, path, size: offset },
            b'B' => Event::SyncBegins { inode, path, serial: offset },
            b'E' => Event::SyncEnds { serial: offset },
            b'U' => Event::Remove { path },
            b'R' => Event::Rename { from: path, to: other },
            b'L' => Event::Link { from: path, to: other },
            other => panic!("{}: the shim cannot follow what was done ({})", path.display(), char::from(*other)),
        });
    }
    events
}

/// What becomes of a change that no sync has covered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Only so many of its sectors.
    Torn(u64),
}

const SECTOR: usize = 512;

/// Files and folders below one folder, as the disk holds them for certain and as the program sees them.
pub(crate) struct Disk {
    root: PathBuf,
    objects: Vec<Object>,
    by_inode: HashMap<u64, usize>,
    syncs: HashMap<u64, (usize, u64)>,
    ignored: fn(&Path) -> bool,
}

enum Object {
    File(Part<Vec<u8>, Change>),
    Folder(Part<BTreeMap<String, usize>, Naming>),
}

/// What is durable, and the changes since, oldest first.
struct Part<T, C> {
    durable: T,
    /// How many changes have become durable.
    settled: u64,
    pending: VecDeque<C>,
}

enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

/// One change of a folder: both halves of a rename within it come together or not at all.
struct Naming {
    remove: Option<String>,
    add: Option<(String, usize)>,
}

impl Disk {
    /// An empty folder, itself durable.
    pub(crate) fn new(root: &Path) -> Self {
        Self::without_syncs_of(root, |_| false)
    }

    /// One on which syncs of some files and folders have no effect, as if the program had left them out.
    pub(crate) fn without_syncs_of(root: &Path, ignored: fn(&Path) -> bool) -> Self {
        let objects = vec![Object::Folder(Part::new())];
        Self { root: root.to_owned(), objects, by_inode: HashMap::new(), syncs: HashMap::new(), ignored }
    }

    /// Goes on by one event. Says whether what is certain has changed.
    pub(crate) fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Create { inode, path } => self.create(*inode, path, Object::File(Part::new())),
            Event::CreateFolder { inode, path } => self.create(*inode, path, Object::Folder(Part::new())),
            Event::Write { inode, path, offset, data } => {
                let offset = usize::try_from(*offset).unwrap();
                self.change(*inode, path, Change::Write { offset, data: data.clone() });
            }
            Event::Resize { inode, path, size } => {
                self.change(*inode, path, Change::Resize(usize::try_from(*size).unwrap()));
            }
            Event::SyncBegins { inode, path, serial } => {
                if !(self.ignored)(path) {
                    let object = self.find(*inode, path);
                    self.syncs.insert(*serial, (object, self.objects[object].changes()));
                }
            }
            Event::SyncEnds { serial } => {
                if let Some((object, changes)) = self.syncs.remove(serial) {
                    return self.objects[object].settle(changes);
                }
            }
            Event::Remove { path } => self.rename(path, Naming { remove: Some(name(path)), add: None }),
            Event::Rename { from, to } => {
                let object = self.look_up(from).expect("renamed what is not there");
                let add = Some((name(to), object));
                if from.parent() == to.parent() {
                    self.rename(to, Naming { remove: Some(name(from)), add });
                } else {
                    self.rename(to, Naming { remove: None, add });
                    self.rename(from, Naming { remove: Some(name(from)), add: None });
                }
            }
            Event::Link { from, to } => {
                let object = self.look_up(from).expect("linked what is not there");
                self.rename(to, Naming { remove: None, add: Some((name(to), object)) });
            }
        }
        false
    }

    /// Writes out what the disk may hold, `fate` deciding about every change that is not certain.
    pub(crate) fn lay_out(&self, at: &Path, fate: &mut dyn FnMut() -> Fate) {
        self.lay_out_object(0, at, fate);
    }

    /// One file as the program sees it now; `None` if there is none.
    pub(crate) fn visible(&self, path: &Path) -> Option<Vec<u8>> {
        match &self.objects[self.look_up(path)?] {
            Object::File(file) => Some(file.contents(&mut || Fate::Kept)),
            Object::Folder(_) => None,
        }
    }

    fn lay_out_object(&self, object: usize, at: &Path, fate: &mut dyn FnMut() -> Fate) {
        match &self.objects[object] {
            Object::File(file) => std::fs::write(at, file.contents(fate)).unwrap(),
            Object::Folder(folder) => {
                std::fs::create_dir_all(at).unwrap();
                for (name, object) in folder.names(fate) {
                    self.lay_out_object(object, &at.join(name), fate);
                }
            }
        }
    }

    fn create(&mut self, inode: u64, path: &Path, object: Object) {
        self.objects.push(object);
        let object = self.objects.len() - 1;
        // A number is used again after its file is gone.
        self.by_inode.insert(inode, object);
        self.rename(path, Naming { remove: None, add: Some((name(path), object)) });
    }

    fn change(&mut self, inode: u64, path: &Path, change: Change) {
        let object = self.find(inode, path);
        match &mut self.objects[object] {
            Object::File(file) => file.pending.push_back(change),
            Object::Folder(_) => panic!("{} is a folder and was written to", path.display()),
        }
    }

    fn rename(&mut self, path: &Path, naming: Naming) {
        let folder = self.look_up(path.parent().unwrap()).unwrap_or_else(|| panic!("{}: no folder", path.display()));
        match &mut self.objects[folder] {
            Object::Folder(folder) => folder.pending.push_back(naming),
            Object::File(_) => panic!("{} lies in a file", path.display()),
        }
    }

    fn find(&self, inode: u64, path: &Path) -> usize {
        if path == self.root {
            return 0;
        }
        *self.by_inode.get(&inode).unwrap_or_else(|| panic!("{} was there before the log", path.display()))
    }

    fn look_up(&self, path: &Path) -> Option<usize> {
        let mut at = 0;
        for part in path.strip_prefix(&self.root).expect("a path outside the folder") {
            let Object::Folder(folder) = &self.objects[at] else { return None };
            at = *folder.names(&mut || Fate::Kept).get(&*part.to_string_lossy())?;
        }
        Some(at)
    }
}

impl Object {
    fn changes(&self) -> u64 {
        match self {
            Self::File(file) => file.settled + file.pending.len() as u64,
            Self::Folder(folder) => folder.settled + folder.pending.len() as u64,
        }
    }

    /// Makes the first `changes` of all changes durable; says whether that changed anything.
    fn settle(&mut self, changes: u64) -> bool {
        match self {
            Self::File(file) => {
                let settled = file.take(changes);
                settled.iter().for_each(|change| change.apply(&mut file.durable, Fate::Kept));
                !settled.is_empty()
            }
            Self::Folder(folder) => {
                let settled = folder.take(changes);
                settled.iter().for_each(|naming| naming.apply(&mut folder.durable));
                !settled.is_empty()
            }
        }
    }
}

impl<T: Default, C> Part<T, C> {
    fn new() -> Self {
        Self { durable: T::default(), settled: 0, pending: VecDeque::new() }
    }

    fn take(&mut self, changes: u64) -> Vec<C> {
        let count = usize::try_from(changes.saturating_sub(self.settled)).unwrap();
        self.settled += count as u64;
        self.pending.drain(..count).collect()
    }
}

impl Part<Vec<u8>, Change> {
    fn contents(&self, fate: &mut dyn FnMut() -> Fate) -> Vec<u8> {
        let mut contents = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut contents, fate());
        }
        contents
    }
}

impl Part<BTreeMap<String, usize>, Naming> {
    fn names(&self, fate: &mut dyn FnMut() -> Fate) -> BTreeMap<String, usize> {
        let mut names = self.durable.clone();
        for naming in &self.pending {
            // A name is not torn.
            if fate() == Fate::Kept {
                naming.apply(&mut names);
            }
        }
        names
    }
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>, fate: Fate) {
        let (offset, data) = match (self, fate) {
            (_, Fate::Lost) => return,
            (Self::Resize(size), Fate::Kept | Fate::Torn(_)) => return contents.resize(*size, 0),
            (Self::Write { offset, data }, Fate::Kept) => (*offset, data.as_slice()),
            (Self::Write { offset, data }, Fate::Torn(sectors)) => {
                let sectors = usize::try_from(sectors).unwrap() % (data.len() / SECTOR + 1);
                (*offset, &data[..sectors * SECTOR])
            }
        };
        let end = offset + data.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset..end].copy_from_slice(data);
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.remove {
            names.remove(name);
        }
        if let Some((name, object)) = &self.add {
            names.insert(name.clone(), *object);
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    fn write(offset: u64, data: &[u8]) -> Event {
        Event::Write { inode: 2, path: path("a"), offset, data: data.into() }
    }

    fn begin(inode: u64, name: &str, serial: u64) -> Event {
        Event::SyncBegins { inode, path: path(name), serial }
    }

    fn disk(events: &[Event]) -> Disk {
        let mut disk = Disk::new(Path::new("/d"));
        for event in events {
            disk.apply(event);
        }
        disk
    }

    /// The files that are certain, and what they hold.
    fn certain(disk: &Disk) -> Vec<(String, Vec<u8>)> {
        let at = tempfile::tempdir().unwrap();
        disk.lay_out(at.path(), &mut || Fate::Lost);
        let mut files: Vec<_> = std::fs::read_dir(at.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn create() -> Event {
        Event::Create { inode: 2, path: path("a") }
    }

    #[test]
    fn a_file_needs_its_own_sync_and_its_folders() {
        let mut events = vec![create(), write(0, b"body"), begin(2, "a", 1), Event::SyncEnds { serial: 1 }];
        assert_eq!(certain(&disk(&events)), [], "it has no name yet");
        events.extend([Event::SyncBegins { inode: 1, path: "/d".into(), serial: 2 }, Event::SyncEnds { serial: 2 }]);
        assert_eq!(certain(&disk(&events)), [("a".into(), b"body".to_vec())]);
        events.push(write(4, b" and more"));
        assert_eq!(certain(&disk(&events)), [("a".into(), b"body".to_vec())]);
        assert_eq!(disk(&events).visible(&path("a")), Some(b"body and more".to_vec()));
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began_and_counts_when_it_has_ended() {
        let mut events = vec![create(), Event::SyncBegins { inode: 1, path: "/d".into(), serial: 1 }];
        events.extend([Event::SyncEnds { serial: 1 }, write(0, b"one"), begin(2, "a", 2), write(3, b"two")]);
        assert_eq!(certain(&disk(&events)), [("a".into(), Vec::new())]);
        events.push(Event::SyncEnds { serial: 2 });
        assert_eq!(certain(&disk(&events)), [("a".into(), b"one".to_vec())]);
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_file() {
        let root = |serial| Event::SyncBegins { inode: 1, path: "/d".into(), serial };
        let events = [
            create(),
            write(0, b"old"),
            begin(2, "a", 1),
            Event::SyncEnds { serial: 1 },
            root(2),
            Event::SyncEnds { serial: 2 },
            Event::Remove { path: path("a") },
            Event::Create { inode: 2, path: path("b") },
            Event::Rename { from: path("b"), to: path("c") },
        ];
        assert_eq!(certain(&disk(&events)), [("a".into(), b"old".to_vec())], "the removal is not certain either");
        let synced = [events.as_slice(), &[root(3), Event::SyncEnds { serial: 3 }]].concat();
        assert_eq!(certain(&disk(&synced)), [("c".into(), Vec::new())]);
    }

    #[test]
    fn a_torn_write_leaves_whole_sectors() {
        let mut contents = Vec::new();
        let change = Change::Write { offset: 4, data: vec![7; 1_200] };
        change.apply(&mut contents, Fate::Torn(2));
        assert_eq!(contents.len(), 4 + 1_024);
    }
}
