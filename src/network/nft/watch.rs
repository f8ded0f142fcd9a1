//! Notices that somebody takes things out of a table: all rules flushed, the table or a chain deleted, elements of
//! sets.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{DEL_CHAIN, DEL_RULE, DEL_SET, DEL_SET_ELEMENT, DEL_TABLE, GENMSG, NETFILTER, SUBSYSTEM, wire::find_text};
use crate::netlink::{HEADER, split};

/// Group of whoever wants to hear of changes (NFNLGRP_NFTABLES).
const GROUP: u32 = 7;
/// Name of the table, in messages about it, its chains and its rules alike.
const TABLE_NAME: u16 = 1;
/// Name of the set, in messages about it and its elements alike.
const SET_NAME: u16 = 2;
/// How long it has to be quiet before somebody looks: what flushes rules goes on to write others.
const QUIET_MS: u16 = 100;
/// How often in a row quiet is waited for.
const WAITS_MAX: usize = 5;
/// Room for one datagram, bytes. A longer one is cut, and counts as something that has happened.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Stack of the thread, bytes.
const STACK: usize = 128 * 1024;

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) table: &'static str,
    /// How the names of those sets begin of which every element counts.
    pub(crate) sets: &'static [&'static str],
    /// By whom things may be taken out ([`super::Nft::port`]).
    pub(crate) own: [u32; 2],
}

/// A watch. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct NftWatch {
    _leash: OwnedFd,
}

impl NftWatch {
    /// Calls `lost` soon after somebody else has taken something out of the table, on a thread of its own.
    pub(crate) fn start(watched: Watched, lost: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut socket = Socket::new(NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        let (held, leash) = io::pipe()?;
        let watch = move || watch(&socket, &held.into(), watched, lost);
        thread::Builder::new().name("network: rules".into()).stack_size(STACK).spawn(watch)?;
        Ok(Self { _leash: leash.into() })
    }
}

fn watch(socket: &Socket, leash: &OwnedFd, watched: Watched, lost: impl Fn()) {
    let mut buffer = Vec::with_capacity(DATAGRAM_MAX);
    while ready(socket, Some(leash), PollTimeout::NONE) {
        let mut is_lost = drain(socket, watched, &mut buffer);
        for _ in 0..WAITS_MAX {
            if !is_lost || !ready(socket, None, QUIET_MS.into()) {
                break;
            }
            is_lost |= drain(socket, watched, &mut buffer);
        }
        if is_lost {
            lost();
        }
    }
}

/// Waits for a message; `false` when none came in time, or the watch is to end.
fn ready(socket: &Socket, leash: Option<&OwnedFd>, patience: PollTimeout) -> bool {
    loop {
        let mut polled = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        polled.extend(leash.map(|leash| PollFd::new(leash.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, patience) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) => return polled.get(1).and_then(PollFd::revents).is_none_or(|events| events.is_empty()),
        }
    }
}

/// Reads all there is. Whether any of it took something out of the table; what was too much to be told counts, too.
fn drain(socket: &Socket, watched: Watched, buffer: &mut Vec<u8>) -> bool {
    let mut is_lost = false;
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Ok(_) => is_lost |= takes_out_of(watched, buffer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_lost,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // More has happened than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_lost = true,
            Err(_) => return is_lost,
        }
    }
}

fn takes_out_of(watched: Watched, datagram: &[u8]) -> bool {
    let Watched { table, sets, own } = watched;
    let mut rest = datagram;
    while let Some((message, after)) = split(rest) {
        rest = after;
        let is = |kinds: &[u16]| kinds.iter().any(|kind| message.kind == SUBSYSTEM << 8 | kind);
        let attributes = message.payload.get(GENMSG..).unwrap_or_default();
        let of_sets = || {
            let set = find_text(attributes, SET_NAME);
            is(&[DEL_SET, DEL_SET_ELEMENT]) && sets.iter().any(|beginning| set.starts_with(beginning))
        };
        let takes = is(&[DEL_TABLE, DEL_CHAIN, DEL_RULE]) || of_sets();
        if takes && !own.contains(&message.port) && find_text(attributes, TABLE_NAME) == table {
            return true;
        }
    }
    datagram.len() >= DATAGRAM_MAX - HEADER
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = takes_out_of(Watched { table: "coracle", sets: &["host-ports"], own: [7, 8] }, &bytes);
        }
    }
}
