//! How a process ended.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Signal;

/// How the first process of a container, or an exec, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called `exit` with this code.
    Code(u8),
    /// A signal ended it.
    Signal(Signal),
    /// It never ran: the program could not be started. The text says why.
    StartFailed {
        /// The step and the kernel's reason.
        why: String,
    },
    /// Nobody was there to see it: the machine restarted, or the pod's monitor was killed.
    Unknown {
        /// What kept us from knowing.
        why: String,
    },
}

impl Exit {
    /// The exit code as Kubernetes shows it: 0–255; 128+n after signal n; 128 when it never ran; 255 when unknown.
    pub fn code(&self) -> i32 {
        match self {
            Exit::Code(code) => i32::from(*code),
            Exit::Signal(signal) => 128 + signal.number(),
            Exit::StartFailed { .. } => 128,
            Exit::Unknown { .. } => 255,
        }
    }
}

/// An exit with all that must be known about it after the process has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// How it ended.
    pub how: Exit,
    /// When its parent reaped it.
    pub at: SystemTime,
    /// The kernel killed a process of this container because its memory limit was reached.
    pub oom_killed: bool,
}
