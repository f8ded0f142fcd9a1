//! The conversation between the daemon and the processes that outlive it: the launcher, and the monitor of each pod.
//!
//! One packet of a SOCK_SEQPACKET socket carries one message of `proto/monitor/v1` with its descriptors beside it
//! ([`frame`]). The daemon's end is asynchronous: [`Launcher`] and [`Monitor`] send requests and get replies by number,
//! and what happens by itself arrives as [`News`]. The other end is [`Peer`]: no runtime, never blocks.
//!
//! The two ends may be of different releases for weeks: each greets with its protocol number, unknown fields are
//! skipped, and whoever reconnects is told everything again, so no message is ever needed twice.
//! Never knows: what a container is made of (`engine`), when a pod is started (`pods`).

mod ahead;
mod conversation;
mod error;
mod exit;
pub mod frame;
mod launcher;
mod monitor;
mod news;
mod peer;
mod program;

pub use ahead::MAX_MESSAGE_FDS;
/// The messages themselves. `engine` writes the launch orders in them; nothing above `engine` names them.
pub use api::monitor::v1 as wire;
pub use error::{Error, Result};
pub use exit::{
    EXIT_RECORD_KIND, EXIT_RECORD_VERSION, RecordedExit, ending_to_wire, exit_record_name, exit_to_wire,
    record_from_wire,
};
pub use launcher::{BACKLOG, LAUNCHER_SOCKET, Launcher};
pub use monitor::{Exec, ExecId, ExecOrder, MONITOR_SOCKET, Monitor, PodReady, PodSetUp, Whole, exec_name};
pub use news::{Greeting, News, Now, NowState};
pub use peer::Peer;
pub use program::{Output, Program, Programs, environment, programs};

/// The version of the protocol that this release speaks.
pub const PROTOCOL: u32 = 1;

/// This release, as said in greetings.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
