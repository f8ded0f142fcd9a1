//! Lease files: who has which address, in the reference plugin's form.
//!
//! `<data dir>/<network>/<address>` holds `<container id>\r\n<interface>`; `last_reserved_ip.<set>` holds the address
//! handed out last; `lock` is held (flock) around every change, so that several processes may share the directory.
//! Threads of ours queue for a directory first, and only the one whose turn it is competes with other processes.
//! Giving back is one unlink: it works on a full disk.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    marker::PhantomData,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{Error, Result};

/// Largest lease that is believed, in bytes: an id and a link's name have far less.
const LEASE_MAX: u64 = 4096;

/// Taken addresses met one by one before the directory is listed once instead: listing costs as much as some thirty
/// attempts, and a nearly full range would need thousands.
const MISSES_BEFORE_LISTING: usize = 32;

/// How long another process may hold the lock. A change takes it well under a millisecond, so one that holds it for
/// this long has hung.
const LOCKED_WITHIN: Duration = Duration::from_secs(10);
/// Pauses between two attempts at the lock: the first, and what doubling ends at.
const RETRY_EVERY: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(10)];

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder<'a> {
    /// The container id that CNI speaks of: our pod id.
    pub(crate) id: &'a str,
    /// The link inside the pod.
    pub(crate) interface: &'a str,
}

impl Holder<'_> {
    fn text(&self) -> String {
        format!("{}\r\n{}", self.id, self.interface)
    }

    /// Whether a lease is the holder's. Very old ones name no interface.
    fn is_named_in(&self, lease: &str) -> bool {
        lease.trim() == self.text() || lease.trim() == self.id
    }
}

/// The lease directory of one network.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    dir: PathBuf,
}

/// The directory while its lock is held.
pub(crate) struct Locked<'a> {
    dir: &'a Path,
    // Before the turn: the file is free when the next of our threads asks for it.
    _lock: Flock<File>,
    _turn: MutexGuard<'static, ()>,
    // Leases are looked at by one thread at a time: the lock is the process's word to others.
    _single: PhantomData<*const ()>,
}

impl Leases {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Waits for the lock. Makes the directory when it is missing.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        self.lock_within(LOCKED_WITHIN)
    }

    /// The same with another patience towards other processes. Our own threads wait for their turn without limit: each
    /// before them is bounded.
    pub(super) fn lock_within(&self, patience: Duration) -> Result<Locked<'_>> {
        let turn = turn_of(&self.dir).lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join("lock");
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
                made.map_err(failed("make directory", &self.dir))?;
                open()
            }
            other => other,
        };
        let file = file.map_err(failed("open", &path))?;
        let lock = flock(file, path, patience)?;
        Ok(Locked { dir: &self.dir, _lock: lock, _turn: turn, _single: PhantomData })
    }

    /// Whether the address is the holder's.
    pub(crate) fn is_held(&self, address: IpAddr, holder: &Holder<'_>) -> Result<bool> {
        Ok(read(&self.dir.join(address.to_string()))?.is_some_and(|text| holder.is_named_in(&text)))
    }

    /// Gives back what `holder` has, among these addresses only. Safe to repeat; a lease that has meanwhile become
    /// somebody else's stays. Returns how many were given back.
    pub(crate) fn release(&self, holder: &Holder<'_>, addresses: &[IpAddr]) -> Result<usize> {
        let Some(locked) = self.lock_existing()? else { return Ok(0) };
        let mut given = 0;
        for &address in addresses {
            given += usize::from(locked.release(address, holder)?);
        }
        Ok(given)
    }

    /// The addresses that are the holder's. Looks at every file.
    pub(crate) fn held_by(&self, holder: &Holder<'_>) -> Result<Vec<IpAddr>> {
        let Some(locked) = self.lock_existing()? else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        for address in locked.taken()? {
            if read(&locked.path(address))?.is_some_and(|text| holder.is_named_in(&text)) {
                held.push(address);
            }
        }
        Ok(held)
    }

    /// Gives back every lease whose holder's id `is_dead`, and every lease without a readable holder (the trace of a
    /// crash between creating and filling it). Looks at every file.
    pub(crate) fn release_all(&self, is_dead: impl FnMut(&str) -> bool) -> Result<usize> {
        self.release_where(is_dead, |_| true)
    }

    /// The same of leases that were written before some moment.
    pub(crate) fn release_before(&self, moment: SystemTime, is_dead: impl Fn(&str) -> bool) -> Result<usize> {
        let is_older = |path: &Path| path.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < moment);
        self.release_where(is_dead, is_older)
    }

    fn release_where(&self, mut is_dead: impl FnMut(&str) -> bool, counts: impl Fn(&Path) -> bool) -> Result<usize> {
        let Some(locked) = self.lock_existing()? else { return Ok(0) };
        let mut given = 0;
        for address in locked.taken()? {
            let path = locked.path(address);
            if !counts(&path) {
                continue;
            }
            let dead = match read(&path)? {
                None => false,
                Some(text) => text.lines().next().map(str::trim).filter(|id| !id.is_empty()).is_none_or(&mut is_dead),
            };
            if dead {
                given += usize::from(locked.unlink(&path)?);
            }
        }
        Ok(given)
    }

    /// Writes again what is missing of the leases of pods that live: their addresses are theirs, whatever became of the
    /// files. Returns how many were written. One that another holder has meanwhile is named in the log.
    pub(crate) fn restore(&self, live: &[(Holder<'_>, IpAddr)]) -> Result<usize> {
        let locked = self.lock()?;
        let mut restored = 0;
        for (holder, address) in live {
            let path = locked.path(*address);
            match read(&path)? {
                None => {
                    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                    let written = made.and_then(|mut file| file.write_all(holder.text().as_bytes()));
                    written.map_err(failed("write again", &path))?;
                    restored += 1;
                }
                Some(text) if text.lines().next().map(str::trim) == Some(holder.id) => {}
                Some(_) => {
                    tracing::error!(%address, pod = holder.id, "another pod has the lease of a living pod's address")
                }
            }
        }
        Ok(restored)
    }

    fn lock_existing(&self) -> Result<Option<Locked<'_>>> {
        if self.dir.is_dir() { self.lock().map(Some) } else { Ok(None) }
    }
}

impl Locked<'_> {
    /// Takes the address if nobody has it. `set` is the number of the range set it comes from.
    pub(crate) fn reserve(&self, address: IpAddr, set: usize, holder: &Holder<'_>) -> Result<bool> {
        let path = self.path(address);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(source) => return Err(Error::Lease { act: "create", path, source }),
        };
        let filled = file.write_all(holder.text().as_bytes()).map_err(failed("write", &path)).and_then(|()| {
            let last = self.last_path(set);
            write_over(&last, &address.to_string()).map_err(failed("write", &last))
        });
        if let Err(error) = filled {
            self.unlink(&path)?;
            return Err(error);
        }
        Ok(true)
    }

    /// Takes the first of the candidates that nobody has.
    pub(crate) fn reserve_first(
        &self,
        candidates: impl Iterator<Item = IpAddr>,
        set: usize,
        holder: &Holder<'_>,
    ) -> Result<Option<IpAddr>> {
        let mut taken = None;
        for (misses, candidate) in candidates.enumerate() {
            if misses == MISSES_BEFORE_LISTING {
                taken = Some(self.taken()?.into_iter().collect::<HashSet<_>>());
            }
            if taken.as_ref().is_some_and(|taken| taken.contains(&candidate)) {
                continue;
            }
            if self.reserve(candidate, set, holder)? {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// The address of this set that was handed out last; unreadable counts as none.
    pub(crate) fn last(&self, set: usize) -> Option<IpAddr> {
        read(&self.last_path(set)).ok().flatten()?.trim().parse().ok()
    }

    /// Gives the address back if it is the holder's.
    pub(crate) fn release(&self, address: IpAddr, holder: &Holder<'_>) -> Result<bool> {
        let path = self.path(address);
        match read(&path)? {
            Some(text) if holder.is_named_in(&text) => self.unlink(&path),
            _ => Ok(false),
        }
    }

    /// Ids of a few holders of addresses of a set: those of its lowest taken addresses.
    pub(crate) fn some_holders(&self, is_of_set: impl Fn(IpAddr) -> bool, at_most: usize) -> Result<Vec<String>> {
        let mut taken = self.taken()?;
        taken.retain(|address| is_of_set(*address));
        taken.sort_unstable();
        let mut ids = Vec::new();
        for address in taken.into_iter().take(at_most) {
            let text = read(&self.path(address))?.unwrap_or_default();
            ids.extend(text.lines().next().map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned));
        }
        Ok(ids)
    }

    fn taken(&self) -> Result<Vec<IpAddr>> {
        let fail = |source| Error::Lease { act: "list", path: self.dir.to_owned(), source };
        let mut all = Vec::new();
        for entry in fs::read_dir(self.dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            all.extend(name.to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(all)
    }

    fn unlink(&self, path: &Path) -> Result<bool> {
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Lease { act: "give back", path: path.to_owned(), source }),
        }
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }
}

/// What threads of this process queue on for a directory. Kept for the life of the process: there are as many as
/// networks were ever configured.
fn turn_of(dir: &Path) -> &'static Mutex<()> {
    static TURNS: OnceLock<Mutex<HashMap<PathBuf, &'static Mutex<()>>>> = OnceLock::new();
    let mut turns = TURNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    match turns.get(dir) {
        Some(turn) => turn,
        None => turns.entry(dir.to_owned()).or_insert(Box::leak(Box::default())),
    }
}

/// Takes the file's lock, which nobody but another process has.
fn flock(mut file: File, path: PathBuf, patience: Duration) -> Result<Flock<File>> {
    let deadline = Instant::now() + patience;
    let [mut pause, longest] = RETRY_EVERY;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EAGAIN | Errno::EINTR)) => file,
            Err((_, errno)) => return Err(Error::Lease { act: "lock", path, source: errno.into() }),
        };
        if Instant::now() >= deadline {
            return Err(Error::LeaseLock { holder: lock_holder(&file), path, waited: patience });
        }
        sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// Which process holds the file's lock, where `/proc/locks` tells: it does not for one outside our pid namespace.
fn lock_holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let id = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    holder_among(&fs::read_to_string("/proc/locks").ok()?, &id)
}

/// The holder of one file's flock in the text of `/proc/locks`. Lines of those who wait have an arrow, `->`, before
/// the kind.
fn holder_among(locks: &str, id: &str) -> Option<u32> {
    let holder = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let (pid, file) = (words.nth(2)?, words.next()?);
        if is_flock && file == id { pid.parse().ok().filter(|pid| *pid > 0) } else { None }
    };
    locks.lines().find_map(holder)
}

/// Overwrites in place: a torn write costs the round robin its place, never an address. What is left of a longer text
/// is cut off afterwards, since emptying a file first takes longer than all the rest.
fn write_over(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    let length = text.len() as u64;
    if file.metadata()?.len() == length { Ok(()) } else { file.set_len(length) }
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Lease { act: "open", path: path.to_owned(), source }),
    };
    let mut bytes = Vec::new();
    file.take(LEASE_MAX).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Lease { act, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_told_from_who_waits_for_it_and_from_other_kinds() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fd:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 22 fd:01:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 33 fd:01:77 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 44 fd:01:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 fd:01:79 0 EOF\n";
        assert_eq!(holder_among(locks, "fd:01:77"), Some(33));
        assert_eq!(holder_among(locks, "fd:01:79"), None, "a process of another pid namespace");
        assert_eq!(holder_among(locks, "fd:01:80"), None);
    }
}
