//! A conversation with the kernel over netlink: several requests in one send, every answer awaited.
//!
//! Shared by links ([`crate::link`], messages of the netlink-packet crates) and nftables ([`crate::nft`], our own
//! encoder). The kernel does the work inside the send and answers at once, so nothing here waits for long; a
//! conversation belongs to the network namespace in which its socket was opened.

use std::io;

use netlink_sys::Socket;
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

/// Room for one datagram from the kernel in bytes: dumps come in pieces of at most 32 KiB.
const DATAGRAM_MAX: usize = 64 * 1024;

/// Seconds to wait for an answer. It is there as soon as the send returns; a kernel that leaves a request unanswered
/// must not hold a pod for ever.
const ANSWER_WITHIN: i64 = 10;

/// Size of `struct nlmsghdr` in bytes.
pub(crate) const HEADER: usize = 16;

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// An open netlink socket and its running number.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    port: u32,
    sequence: u32,
    /// Most answers to one request that are kept.
    most: usize,
}

/// One message from the kernel that is neither an acknowledgement nor an error.
pub(crate) struct Answer {
    /// Message type.
    pub(crate) kind: u16,
    /// What follows the header.
    pub(crate) payload: Vec<u8>,
}

/// The kernel refused one request of a batch.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Number of the request.
    pub(crate) sequence: u32,
    /// The errno and, where the kernel gave one, its explanation.
    pub(crate) source: io::Error,
}

impl Conversation {
    /// Opens a socket of `NETLINK_*` family `protocol` in the thread's own network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.set_ext_ack(true)?;
        // Errors need not carry the request back: its number is enough.
        socket.set_cap_ack(true)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_WITHIN))?;
        Ok(Self { socket, port, sequence: 0, most: usize::MAX })
    }

    /// From now on more answers than these to one exchange are an error: for namespaces in which others make what there
    /// is to tell.
    pub(crate) fn keep_at_most(&mut self, most: usize) {
        self.most = most;
    }

    /// The number that the kernel gives to what comes by this socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Whether the kernel takes what a dump is asked with as a filter. Gives whether it can (Linux 4.20).
    pub(crate) fn filter_dumps(&self, yes: bool) -> bool {
        self.socket.set_netlink_get_strict_chk(yes).is_ok()
    }

    /// A number for the next request.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends requests that stand one after the other in `bytes` and waits until each of `awaited` (their numbers; all
    /// must ask for an acknowledgement or be dumps) has been answered. Returns what the kernel sent and what it
    /// refused.
    ///
    /// A dump of what changed while it was read is an error of kind `Interrupted`, to be asked for again. Answers have
    /// to fit the socket's buffer, which holds about 200 of them.
    ///
    /// `whole` is the number of a message that is answered only when the kernel throws away all of them.
    pub(crate) fn exchange(
        &mut self,
        bytes: &[u8],
        awaited: &[u32],
        whole: Option<u32>,
    ) -> io::Result<(Vec<Answer>, Vec<Refusal>)> {
        let sent = self.socket.send(bytes, 0)?;
        if sent != bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took only part of a netlink message"));
        }
        let mut open = awaited.to_vec();
        let (mut answers, mut refusals) = (Vec::new(), Vec::new());
        let (mut interrupted, mut is_too_much) = (false, false);
        let mut buffer = Vec::with_capacity(DATAGRAM_MAX);
        while !open.is_empty() {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A receive time-out is told as EAGAIN (socket(7), SO_RCVTIMEO), which reads as a lack of something.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let late = format!("the kernel has not answered within {ANSWER_WITHIN} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, late));
                }
                Err(error) => return Err(error),
            }
            let mut rest = buffer.as_slice();
            while let Some((message, after)) = split(rest) {
                rest = after;
                if whole == Some(message.sequence)
                    && let Some(error) = error_of(&message)
                {
                    return Err(error);
                }
                // A leftover of an exchange that was given up; not ours.
                if !open.contains(&message.sequence) {
                    continue;
                }
                // Read to its end all the same: the kernel refuses (`EBUSY`) another dump on this socket until then.
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR => {
                        open.retain(|number| *number != message.sequence);
                        if let Some(source) = error_of(&message) {
                            refusals.push(Refusal { sequence: message.sequence, source });
                        }
                    }
                    NLMSG_DONE => open.retain(|number| *number != message.sequence),
                    kind => {
                        is_too_much |= answers.len() >= self.most;
                        // Read to its end all the same.
                        if !is_too_much {
                            answers.push(Answer { kind, payload: message.payload.to_vec() });
                        }
                    }
                }
            }
        }
        if is_too_much {
            return Err(io::Error::other(format!("the kernel has more than {} answers", self.most)));
        }
        if interrupted {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the table changed while it was read"));
        }
        Ok((answers, refusals))
    }
}

/// One message in a datagram.
pub(crate) struct Raw<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    /// Of a notice: who has asked for what it tells.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// Takes the first message off the buffer; `None` at its end or at something that is no message.
pub(crate) fn split(buffer: &[u8]) -> Option<(Raw<'_>, &[u8])> {
    let length = usize::try_from(u32_at(buffer, 0)?).ok()?;
    if length < HEADER || length > buffer.len() {
        return None;
    }
    let raw = Raw {
        kind: u16_at(buffer, 4)?,
        flags: u16_at(buffer, 6)?,
        sequence: u32_at(buffer, 8)?,
        port: u32_at(buffer, 12)?,
        payload: &buffer[HEADER..length],
    };
    Some((raw, buffer.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The error in an `NLMSG_ERROR`; `None` when it is an acknowledgement.
fn error_of(message: &Raw<'_>) -> Option<io::Error> {
    let code = u32_at(message.payload, 0).map_or(-libc::EBADMSG, u32::cast_signed);
    if code == 0 {
        return None;
    }
    let error = io::Error::from_raw_os_error(-code);
    match explanation(message) {
        Some(words) => Some(io::Error::other(Explained { words, error })),
        None => Some(error),
    }
}

/// The kernel's own words (extended acknowledgement).
fn explanation(message: &Raw<'_>) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    // After the code comes the request's header, and its whole body unless that was cut off.
    let request =
        if message.flags & NLM_F_CAPPED != 0 { HEADER } else { usize::try_from(u32_at(message.payload, 4)?).ok()? };
    let mut rest = message.payload.get(4 + request.next_multiple_of(4)..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        if u16_at(rest, 2)? == NLMSGERR_ATTR_MSG {
            let text = rest.get(4..length)?;
            return Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

/// An errno together with the kernel's words.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {words}")]
struct Explained {
    words: String,
    error: io::Error,
}

/// The errno of an error of this module, with or without words.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    let explained = error.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    explained.map_or_else(|| error.raw_os_error(), |explained| explained.error.raw_os_error())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_from_the_socket_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut rest = bytes.as_slice();
            while let Some((message, after)) = split(rest) {
                let _ = error_of(&message);
                rest = after;
            }
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error_and_an_error_keeps_its_number() {
        let answer = |code: i32| {
            let payload = [&code.to_ne_bytes()[..], &[0; HEADER]].concat();
            error_of(&Raw { kind: NLMSG_ERROR, flags: NLM_F_CAPPED, sequence: 1, port: 0, payload: &payload })
        };
        assert!(answer(0).is_none());
        assert_eq!(errno(&answer(-libc::ENODEV).unwrap()), Some(libc::ENODEV));
    }
}
