//! A DHCP server that gives one address, and the reference plugin's daemon, which asks it.

use std::{
    io::{PipeWriter, pipe},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command},
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{host::Netns, reference};

/// Ports of server and client (RFC 2131).
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Where a message has its options, after the four bytes that say that there are any.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Options, by RFC 2132.
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const LEASE_S: u8 = 51;
const KIND: u8 = 53;
const SERVER_ID: u8 = 54;
const END: u8 = 255;
/// Kinds of messages.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// The plugin's daemon, on this socket, until it is dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn new(socket: &Path) -> Daemon {
        let program = reference::plugins().join("dhcp");
        Daemon(Command::new(program).args(["daemon", "-socketpath"]).arg(socket).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the server has to give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) server: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
}

/// A server in a namespace, by its only link, until it is dropped.
pub(crate) struct DhcpServer {
    /// The thread ends when nobody holds this end any more.
    ends: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl DhcpServer {
    pub(crate) fn new(netns: &Netns, lease: Lease) -> DhcpServer {
        let socket = netns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVER)).unwrap());
        socket.set_broadcast(true).unwrap();
        let (end, ends) = pipe().unwrap();
        let thread = thread::spawn(move || {
            loop {
                let mut awaited = [socket.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                poll(&mut awaited, PollTimeout::NONE).unwrap();
                if awaited[1].any() == Some(true) {
                    return;
                }
                let mut message = [0; 1500];
                let length = socket.recv(&mut message).unwrap();
                let message = &message[..length];
                let answer = match kind(message) {
                    Some(DISCOVER) => OFFER,
                    Some(REQUEST) => ACK,
                    _ => continue,
                };
                socket.send_to(&reply(message, answer, lease), (Ipv4Addr::BROADCAST, CLIENT)).unwrap();
            }
        });
        DhcpServer { ends: Some(ends), thread: Some(thread) }
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        drop(self.ends.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The kind of a client's message.
fn kind(message: &[u8]) -> Option<u8> {
    let mut options = message.get(OPTIONS..)?;
    while let [code, length, rest @ ..] = options {
        if (*code, *length) == (KIND, 1) {
            return rest.first().copied();
        }
        options = rest.get(usize::from(*length)..)?;
    }
    None
}

fn reply(message: &[u8], kind: u8, lease: Lease) -> Vec<u8> {
    let mut reply = vec![0; OPTIONS];
    // A reply, by Ethernet; transaction, flags and the client's hardware address are the request's.
    reply[..3].copy_from_slice(&[2, 1, 6]);
    for range in [4..8, 10..12, 28..44] {
        reply[range.clone()].copy_from_slice(&message[range]);
    }
    reply[16..20].copy_from_slice(&lease.address.octets());
    reply[20..24].copy_from_slice(&lease.server.octets());
    reply[OPTIONS - 4..].copy_from_slice(&COOKIE);
    reply.extend([KIND, 1, kind]);
    for (code, value) in [
        (SERVER_ID, lease.server.octets()),
        (ROUTER, lease.server.octets()),
        (MASK, lease.mask.octets()),
        (LEASE_S, 3600_u32.to_be_bytes()),
    ] {
        reply.extend([code, 4]);
        reply.extend(value);
    }
    reply.push(END);
    reply
}
