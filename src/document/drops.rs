//! Which files were dropped into this folder, and are whole?
//!
//! By looking at all of it about once a second. The system's notifications would tell sooner, but not from another machine on a
//! network mount, not while nobody listens, and in no portable way that a file is whole; so that one would look all the same. A
//! look asks the system once or twice for each file and reads none.
//!
//! A file is whole when two looks found the same size and time of change. One that is renamed into its place is whole at
//! once, which shows a look later. What is still being written by way of another name is passed over by that name.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Endings under which browsers, copying programs and editors write what is not whole.
const UNFINISHED: [&str; 8] = ["part", "partial", "filepart", "tmp", "temp", "crdownload", "download", "swp"];

/// A folder, and what is known of the files in it and below.
#[derive(Debug)]
pub struct Drops {
    root: PathBuf,
    ours: Vec<PathBuf>,
    known: HashMap<PathBuf, Known>,
    /// What cannot be read, and why, as it was said.
    troubles: BTreeMap<PathBuf, String>,
}

/// What one look came to.
#[derive(Debug, Default)]
pub struct Look {
    /// Files that are whole and that nobody has taken yet, in the order of their names.
    pub whole: Vec<Dropped>,
    /// What is to be said, once each.
    pub news: Vec<News>,
}

/// A file that lies there whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dropped {
    /// The folder, from the root and without links.
    pub folder: PathBuf,
    /// The file below it.
    pub name: PathBuf,
    /// By what it is known again.
    pub stamp: Stamp,
}

/// By what a file that is written to differs from before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// In bytes.
    pub bytes: u64,
    /// Its last change.
    pub modified: SystemTime,
}

/// What changed about a folder or file that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// It cannot be read, and is waited for.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It can be read again.
    Readable {
        /// Which.
        path: PathBuf,
    },
}

#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Seen once as it is.
    New,
    /// Seen twice as it is, and offered until it is taken.
    Whole,
    /// Somebody has done with it what is to be done.
    Taken,
}

impl Dropped {
    /// Where it lies, from the root.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether it is still what was seen. Blocks.
    ///
    /// # Errors
    /// What the system said; `NotFound` if it is gone.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        let metadata = std::fs::metadata(self.path())?;
        Ok(Stamp::of(&metadata)? == self.stamp)
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> io::Result<Self> {
        Ok(Self { bytes: metadata.len(), modified: metadata.modified()? })
    }
}

impl Drops {
    /// In this folder, which need not be there yet. What is `ours` (folders and files, from the root and without links) is
    /// nobody's upload.
    pub fn new(root: &Path, ours: Vec<PathBuf>) -> Self {
        Self { root: root.to_owned(), ours, known: HashMap::new(), troubles: BTreeMap::new() }
    }

    /// Looks at all of it. Blocks, for as long as the file system takes.
    pub fn look(&mut self) -> Look {
        let mut walk = Walk { ours: &self.ours, found: Vec::new(), troubles: BTreeMap::new() };
        let root = walk.root(&self.root);
        let Walk { mut found, troubles, .. } = walk;
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut look = Look { whole: Vec::new(), news: self.changed(troubles) };
        let mut before = std::mem::take(&mut self.known);
        for (path, stamp) in found {
            let stage = match before.remove(&path) {
                Some(known) if known.stamp == stamp && known.stage == Stage::Taken => Stage::Taken,
                Some(known) if known.stamp == stamp => Stage::Whole,
                Some(_) | None => Stage::New,
            };
            if stage == Stage::Whole
                && let Some(folder) = &root
                && let Ok(name) = path.strip_prefix(folder)
            {
                look.whole.push(Dropped { folder: folder.clone(), name: name.to_owned(), stamp });
            }
            self.known.insert(path, Known { stamp, stage });
        }
        look
    }

    /// What was offered is done with: it is offered again only once it has changed.
    pub fn taken(&mut self, drop: &Dropped) {
        let path = drop.path();
        self.troubles.remove(&path);
        if let Some(known) = self.known.get_mut(&path)
            && known.stamp == drop.stamp
        {
            known.stage = Stage::Taken;
        }
    }

    /// What was offered cannot be read, and is offered again; `None` if that was said already.
    pub fn put_off(&mut self, drop: &Dropped, why: &str) -> Option<News> {
        let path = drop.path();
        if self.troubles.get(&path).is_some_and(|said| said == why) {
            return None;
        }
        self.troubles.insert(path.clone(), why.to_owned());
        Some(News::Unreadable { path, why: why.to_owned() })
    }

    /// What is to be said of these troubles, beside those that were said already.
    fn changed(&mut self, now: BTreeMap<PathBuf, String>) -> Vec<News> {
        let mut news = Vec::new();
        // Of files we know only by being told; of those that are gone there is nothing more to say.
        let known = &self.known;
        let (files, folders): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.troubles).into_iter().partition(|(path, _)| known.contains_key(path));
        for path in folders.keys().filter(|path| !now.contains_key(*path) && path.is_dir()) {
            news.push(News::Readable { path: path.clone() });
        }
        for (path, why) in &now {
            if folders.get(path) != Some(why) {
                news.push(News::Unreadable { path: path.clone(), why: why.clone() });
            }
        }
        self.troubles = files.into_iter().chain(now).collect();
        news
    }
}

/// One look at a folder and all below it.
struct Walk<'d> {
    ours: &'d [PathBuf],
    found: Vec<(PathBuf, Stamp)>,
    troubles: BTreeMap<PathBuf, String>,
}

impl Walk<'_> {
    /// Walks it; where it lies without links.
    fn root(&mut self, root: &Path) -> Option<PathBuf> {
        let real = match root.canonicalize() {
            Ok(real) => real,
            Err(error) => {
                self.trouble(root, &error);
                return None;
            }
        };
        let mut folders = vec![real.clone()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = self.folder(&folder, &mut folders) {
                // The root by the name that people gave it.
                let name = if folder == real { root } else { &folder };
                self.trouble(name, &error);
            }
        }
        Some(real)
    }

    fn folder(&mut self, folder: &Path, below: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if is_passed_over(&entry.file_name().to_string_lossy()) || self.ours.contains(&path) {
                continue;
            }
            // What is gone by now, or is a link to nothing, is nothing.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                below.push(path);
            } else if let Ok(metadata) = std::fs::metadata(&path)
                // A link to a folder is not followed: it may lead in a circle.
                && metadata.is_file()
                && let Ok(stamp) = Stamp::of(&metadata)
            {
                self.found.push((path, stamp));
            }
        }
        Ok(())
    }

    fn trouble(&mut self, path: &Path, error: &io::Error) {
        self.troubles.insert(path.to_owned(), error.to_string());
    }
}

/// Whether a file or folder of this name is hidden, or is not whole.
fn is_passed_over(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    name.starts_with('.') || name.starts_with("~$") || name.ends_with('~') || UNFINISHED.contains(&ending.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;

    /// A folder with this file in it, and what is known of it.
    fn folder() -> (tempfile::TempDir, Drops) {
        let dir = tempfile::tempdir().unwrap();
        let drops = Drops::new(dir.path(), Vec::new());
        (dir, drops)
    }

    fn names(look: &Look) -> Vec<&str> {
        look.whole.iter().map(|dropped| dropped.name.to_str().unwrap()).collect()
    }

    /// Writes it as of so many seconds after 1970, whatever the file system's clock counts in.
    fn write(path: &Path, content: &str, at: u64) {
        fs::write(path, content).unwrap();
        touch(path, at);
    }

    fn touch(path: &Path, at: u64) {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
            .unwrap();
    }

    #[test]
    fn w8_a_file_is_offered_once_two_looks_find_it_the_same_and_until_it_is_taken() {
        let (dir, mut drops) = folder();
        let path = dir.path().join("a.txt");
        write(&path, "one", 1);
        assert_eq!(names(&drops.look()), [""; 0], "what lay there at first may be half of it");
        write(&path, "one, two", 1);
        assert_eq!(names(&drops.look()), [""; 0], "it has grown");
        touch(&path, 2);
        assert_eq!(names(&drops.look()), [""; 0], "it was written to");
        assert_eq!(names(&drops.look()), ["a.txt"]);
        let again = drops.look();
        assert_eq!(names(&again), ["a.txt"], "nobody took it");
        assert!(again.whole[0].is_unchanged().unwrap());
        drops.taken(&again.whole[0]);
        assert_eq!(names(&drops.look()), [""; 0]);
        touch(&path, 3);
        assert!(!again.whole[0].is_unchanged().unwrap());
        drops.look();
        let changed = drops.look();
        assert_eq!(names(&changed), ["a.txt"], "what was written to is looked at again");
        write(&path, "three", 4);
        drops.look();
        drops.taken(&changed.whole[0]);
        assert_eq!(names(&drops.look()), ["a.txt"], "what was taken is not what lies there now");
        fs::remove_file(&path).unwrap();
        assert_eq!(names(&drops.look()), [""; 0]);
        write(&path, "three", 4);
        drops.look();
        assert_eq!(
            names(&drops.look()),
            ["a.txt"],
            "what comes back is an upload: the store knows whether it is a new one"
        );
    }

    #[test]
    fn w8_what_is_hidden_unfinished_or_ours_is_passed_over_and_folders_are_looked_into() {
        let (dir, _) = folder();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["deep/er", ".git", "state"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in [
            "a.pdf",
            "deep/er/b.PDF",
            "c",
            ".hidden",
            "d.pdf.part",
            "e.TMP",
            "f.crdownload",
            "g.txt~",
            "~$h.docx",
            ".git/config",
            "state/aquifer.db",
            "aquifer.toml",
        ] {
            fs::write(root.join(name), "x").unwrap();
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&root, root.join("deep/circle")).unwrap();
            std::os::unix::fs::symlink(root.join("gone"), root.join("nothing")).unwrap();
            std::os::unix::fs::symlink(root.join("c"), root.join("linked")).unwrap();
        }
        let mut drops = Drops::new(&root, vec![root.join("state"), root.join("aquifer.toml")]);
        drops.look();
        let expected: &[&str] =
            if cfg!(unix) { &["a.pdf", "c", "deep/er/b.PDF", "linked"] } else { &["a.pdf", "c", "deep/er/b.PDF"] };
        assert_eq!(names(&drops.look()), expected);
        fs::rename(root.join("d.pdf.part"), root.join("d.pdf")).unwrap();
        drops.look();
        assert!(names(&drops.look()).contains(&"d.pdf"), "whole from the moment of its name");
    }

    #[test]
    fn a_folder_that_is_away_is_said_once_and_again_when_it_is_back() {
        let (dir, _) = folder();
        let root = dir.path().join("inbox");
        let mut drops = Drops::new(&root, Vec::new());
        let news = drops.look().news;
        assert!(matches!(&news[..], [News::Unreadable { path, .. }] if *path == root), "{news:?}");
        assert_eq!(drops.look().news, [], "said once");
        fs::create_dir(&root).unwrap();
        write(&root.join("a.txt"), "x", 1);
        assert_eq!(drops.look().news, [News::Readable { path: root.clone() }]);
        let look = drops.look();
        assert_eq!((look.news.len(), names(&look)), (0, vec!["a.txt"]));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(drops.look().news.len(), 1);
        fs::write(&root, "a file").unwrap();
        assert_eq!(drops.look().news.len(), 1, "it is something else that is wrong");
        assert_eq!(drops.look().news.len(), 0);
    }

    #[test]
    fn what_is_in_the_way_of_a_file_is_said_once() {
        let (dir, mut drops) = folder();
        write(&dir.path().join("a.txt"), "x", 1);
        drops.look();
        let dropped = drops.look().whole.remove(0);
        assert!(drops.put_off(&dropped, "denied").is_some());
        let again = drops.look();
        assert_eq!((again.news.len(), names(&again)), (0, vec!["a.txt"]), "it is offered again");
        assert_eq!(drops.put_off(&dropped, "denied"), None);
        assert!(drops.put_off(&dropped, "locked").is_some(), "that is news");
        drops.taken(&dropped);
        assert_eq!(drops.look().news, []);
    }
}
