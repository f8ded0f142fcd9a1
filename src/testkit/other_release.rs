//! Programs of another release: the same ones, told apart by how they end.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use crate::{TempNode, programs};

/// What stands behind the end of an ELF file changes nothing of the program.
const MARK: &[u8] = b"of another release";

/// The program called `name`, as another release of it.
pub fn other_release(name: &str) -> Vec<u8> {
    let mut program = fs::read(programs().join(name)).unwrap();
    program.extend_from_slice(MARK);
    program
}

/// Whether a process runs an [`other_release`].
pub fn is_other_release(pid: i32) -> bool {
    let program = File::open(format!("/proc/{pid}/exe")).unwrap();
    let mut end = vec![0; MARK.len()];
    program.read_exact_at(&mut end, program.metadata().unwrap().len() - MARK.len() as u64).unwrap();
    end == MARK
}

impl TempNode {
    /// Has the node's next daemon bring along another release of the monitor.
    pub fn upgrade_monitor(&self) {
        let (path, config) = (self.dir().join("coracle-monitor"), self.dir().join("config.toml"));
        fs::write(&path, other_release("coracle-monitor")).unwrap();
        let settings = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("monitor = \"{}\"\n\n{settings}", path.display())).unwrap();
    }
}
