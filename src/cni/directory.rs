//! The directory of configurations: which networks pods get, and what is wrong with the files that give none.
//!
//! `.conf`, `.conflist` and `.json` in the order of their names. A file that was good and is not any more counts as it
//! was, for as long as it is there.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::libc;

use crate::{
    Conflist, Error, Result,
    conflist::{SIZE_MAX, object},
};

/// Endings of the files that are read.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// Most files that are looked at. A directory has one or two.
const FILES_MAX: usize = 256;

/// What else there is to say against a list, which its form does not show.
type Judge = dyn Fn(&Conflist) -> std::result::Result<(), String> + Send + Sync;

/// The directory and what was found in it.
#[derive(Clone)]
pub struct Directory {
    path: PathBuf,
    judge: Arc<Judge>,
    good: HashMap<PathBuf, Arc<Conflist>>,
    lists: Vec<Arc<Conflist>>,
    faults: Vec<Fault>,
}

/// A file that gives no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, or the directory itself.
    pub file: PathBuf,
    /// What is wrong with it, naming the key.
    pub why: String,
}

impl Directory {
    /// Reads the directory; a missing one has no networks. What `judge` has against a list is a fault of its file.
    pub fn open(
        path: PathBuf,
        judge: impl Fn(&Conflist) -> std::result::Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let judge = Arc::new(judge);
        let mut directory = Self { path, judge, good: HashMap::new(), lists: Vec::new(), faults: Vec::new() };
        directory.read_again();
        directory
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The networks that it has, in order.
    pub fn lists(&self) -> &[Arc<Conflist>] {
        &self.lists
    }

    /// The file of the network of this name.
    pub fn file_of(&self, network: &str) -> Option<&Path> {
        let list = self.lists.iter().find(|list| list.name == network)?;
        // By its very list: another file may have the same name, and gives nothing.
        self.good.iter().find(|(_, good)| Arc::ptr_eq(good, list)).map(|(file, _)| file.as_path())
    }

    /// Files that give none.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Reads again. Whether anything has changed.
    pub fn read_again(&mut self) -> bool {
        let mut good = HashMap::new();
        let (mut lists, mut faults): (Vec<Arc<Conflist>>, Vec<Fault>) = (Vec::new(), Vec::new());
        for (number, file) in self.files(&mut faults).into_iter().enumerate() {
            if number >= FILES_MAX {
                let why = format!("it is not read, nor what comes after it: the first {FILES_MAX} files are");
                faults.push(Fault { file, why });
                break;
            }
            let judged = read(&file).map_err(|error| model::with_causes(&error));
            let judged = judged.and_then(|list| (self.judge)(&list).map(|()| list));
            let list = match judged {
                Ok(list) => match self.good.get(&file).filter(|before| ***before == list) {
                    // The very same one: whoever has made something of it need not do so again.
                    Some(before) => before.clone(),
                    None => Arc::new(list),
                },
                Err(why) => {
                    let before = self.good.get(&file).cloned();
                    let kept = if before.is_some() { "; it counts as it was before" } else { "" };
                    faults.push(Fault { file: file.clone(), why: format!("{why}{kept}") });
                    match before {
                        Some(before) => before,
                        None => continue,
                    }
                }
            };
            good.insert(file.clone(), list.clone());
            if let Some(other) = lists.iter().find(|other| other.name == list.name) {
                let why = format!("network configuration, name: another file has {:?} already", other.name);
                faults.push(Fault { file, why });
                continue;
            }
            lists.push(list);
        }
        let changed = lists != self.lists || faults != self.faults;
        (self.good, self.lists, self.faults) = (good, lists, faults);
        changed
    }

    fn files(&self, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
        match named(&self.path, &ENDINGS) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                faults.push(Fault { file: self.path.clone(), why: error.to_string() });
                // What cannot be read now is not gone.
                let mut known: Vec<_> = self.good.keys().cloned().collect();
                known.sort();
                known
            }
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("path", &self.path).field("lists", &self.lists).finish_non_exhaustive()
    }
}

/// A list with the plugin files that lie in a directory of its name beside it (1.1).
fn read(file: &Path) -> Result<Conflist> {
    Conflist::with_more(&content(file)?, |name| {
        let beside = file.with_file_name(name);
        let files = match named(&beside, &ENDINGS[..1]) {
            Ok(files) => files,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            Err(source) => return Err(Error::File { act: "list", path: beside, source }),
        };
        let whose = |file: &Path, error| match error {
            Error::Conflist { key, why } => Error::Conflist { key: format!("{}, {key}", file.display()), why },
            other => other,
        };
        files.iter().map(|file| object(&content(file)?).map_err(|error| whose(file, error))).collect()
    })
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| Error::File { act: "read", path: path.to_owned(), source };
    // A pipe that nobody writes to must not hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The files with such an ending, in the order of their names.
fn named(dir: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // A directory of that name is none of them; what a link leads to is looked at when it is read.
        let fits = path.extension().and_then(OsStr::to_str).is_some_and(|ending| endings.contains(&ending));
        if fits && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str, plugins: &str) -> String {
        format!(r#"{{"cniVersion":"1.1.0","name":"{name}","plugins":[{plugins}]}}"#)
    }

    fn names(directory: &Directory) -> Vec<&str> {
        directory.lists().iter().map(|list| list.name.as_str()).collect()
    }

    fn open(path: PathBuf) -> Directory {
        let judge = |list: &Conflist| match list.plugins[0].kind.as_str() {
            "forbidden" => Err("not here".to_owned()),
            _ => Ok(()),
        };
        Directory::open(path, judge)
    }

    #[test]
    fn good_files_count_in_order_and_the_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let mut directory = open(dir.path().join("later"));
        assert!(names(&directory).is_empty() && directory.faults().is_empty());
        directory = open(dir.path().to_owned());
        write("10-bad.conflist", r#"{"cniVersion":"1.0.0","name":"bad","plugins":[{}]}"#);
        write("20-good.conf", r#"{"cniVersion":"0.3.1","name":"good","type":"x"}"#);
        write("30-next.conflist", &list("next", r#"{"type":"x"}"#));
        write("README", "not read");
        fs::create_dir(dir.path().join("40.conflist")).unwrap();
        assert!(directory.read_again());
        assert_eq!(names(&directory), ["good", "next"]);
        let [fault] = directory.faults() else { panic!("{:?}", directory.faults()) };
        assert!(fault.file.ends_with("10-bad.conflist") && fault.why.contains("plugins[0].type"), "{fault:?}");
        assert!(!directory.read_again(), "nothing has changed");

        // A file that was good counts as it was, until it goes.
        let mut all = directory;
        let before = all.lists()[0].clone();
        write("20-good.conf", "{");
        assert!(all.read_again());
        write("20-good.conf", r#"{"cniVersion":"0.3.1","name":"good","type":"forbidden"}"#);
        assert!(all.read_again() && all.faults()[1].why.contains("not here"), "{:?}", all.faults());
        assert!(Arc::ptr_eq(&all.lists()[0], &before) && all.faults()[1].why.contains("as it was before"));
        fs::remove_file(dir.path().join("20-good.conf")).unwrap();
        assert!(all.read_again());
        assert_eq!(names(&all), ["next"]);
        write("50-twice.conflist", &list("next", r#"{"type":"y"}"#));
        assert!(all.read_again());
        assert!(all.faults().iter().any(|fault| fault.file.ends_with("50-twice.conflist")), "{:?}", all.faults());
        assert!(all.file_of("next").unwrap().ends_with("30-next.conflist") && all.file_of("good").is_none());
        nix::unistd::mkfifo(&dir.path().join("00.conflist"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(all.read_again());
        assert!(all.faults().iter().any(|fault| fault.file.ends_with("00.conflist")), "a pipe holds nobody");
    }

    #[test]
    fn plugin_files_beside_a_list_are_a_part_of_it_and_of_its_text() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/20.conf"), r#"{"type":"second"}"#).unwrap();
        fs::write(dir.path().join("net/10.conf"), r#"{"type":"first"}"#).unwrap();
        let text = |more: &str| format!(r#"{{"cniVersion":"1.1.0","name":"net"{more}}}"#);
        for (more, kinds) in [
            ("", &["first", "second"][..]),
            (r#","plugins":[{"type":"own"}]"#, &["own", "first", "second"]),
            (r#","plugins":[{"type":"own"}],"loadOnlyInlinedPlugins":true"#, &["own"]),
        ] {
            fs::write(dir.path().join("1.conflist"), text(more)).unwrap();
            let directory = open(dir.path().to_owned());
            let [list] = directory.lists() else { panic!("{more}: {:?}", directory.faults()) };
            let found: Vec<_> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
            assert_eq!(found, kinds);
            let again = Conflist::parse(list.text.as_bytes()).unwrap();
            assert_eq!(again.plugins, list.plugins, "its text needs no file any more");
        }
        fs::write(dir.path().join("net/30.conf"), "{}").unwrap();
        fs::write(dir.path().join("1.conflist"), text("")).unwrap();
        let directory = open(dir.path().to_owned());
        assert!(directory.lists().is_empty() && directory.faults()[0].why.contains("plugins[2].type"));
    }
}
