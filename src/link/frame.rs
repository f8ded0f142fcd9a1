//! How a message lies in a packet: one byte that says where the body is, then the body or nothing.
//!
//! ```text
//!   01 body…        the body is here
//!   02              the body is in the last descriptor, a memfd (an environment of a megabyte fits no packet)
//!   03 request      no body: descriptors ahead of the message with this number, more than one packet carries
//!   04 request n    that message: n descriptors came ahead of it, its body is in the last one beside it
//! ```
//! Numbers are of 8 bytes (`n`: 4), the lowest first.
//!
//! Every function is pure or reads one descriptor; whatever the bytes, they end with a value or an error, and never
//! take more memory than [`MAX_BODY`].

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use prost::Message;

/// Longest packet, bytes. Small, because a monitor touches this much memory to receive one; larger bodies go by memfd.
pub const MAX_PACKET: usize = 8 * 1024;

/// Longest body in a memfd, bytes: twice what `execve` takes of arguments and environment (2 MiB with the usual stack).
pub const MAX_BODY: usize = 4 * 1024 * 1024;

/// Most descriptors beside one packet: the kernel's SCM_MAX_FD.
pub const MAX_FDS: usize = 253;

const INLINE: u8 = 1;
const MEMFD: u8 = 2;
const AHEAD: u8 = 3;
const JOINED: u8 = 4;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet without even its first byte.
    #[error("an empty packet")]
    Empty,
    /// The first byte says nothing that we know.
    #[error("a packet of unknown kind {kind}")]
    Kind {
        /// The byte.
        kind: u8,
    },
    /// The body should be in a descriptor and none came.
    #[error("a body without its descriptor")]
    NoBody,
    /// The memfd is longer than a body may be, or cannot be read.
    #[error("a body that cannot be read: {why}")]
    Body {
        /// What is wrong with it.
        why: String,
    },
    /// Not all descriptors came that belong to the message, or too many.
    #[error("descriptors ahead of a message: {why}")]
    Descriptors {
        /// What is wrong with their number.
        why: String,
    },
    /// The body is not protobuf of this message.
    #[error("not a message: {why}")]
    Message {
        /// The decoder's reason.
        why: String,
    },
}

/// Where a packet says that its body is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the packet.
    Here(&'a [u8]),
    /// In the last descriptor beside it.
    Memfd,
    /// Nowhere: it brings descriptors of the message with this number.
    Ahead {
        /// The message's number.
        request: u64,
    },
    /// In the last descriptor beside it; others came ahead.
    Joined {
        /// The message's number.
        request: u64,
        /// How many came ahead.
        ahead: u32,
    },
}

/// Reads a packet's first byte.
pub fn place(packet: &[u8]) -> Result<Place<'_>, Malformed> {
    match packet.split_first() {
        None => Err(Malformed::Empty),
        Some((&INLINE, body)) => Ok(Place::Here(body)),
        Some((&MEMFD, _)) => Ok(Place::Memfd),
        Some((&AHEAD, &[a, b, c, d, e, f, g, h])) => {
            Ok(Place::Ahead { request: u64::from_le_bytes([a, b, c, d, e, f, g, h]) })
        }
        Some((&JOINED, &[a, b, c, d, e, f, g, h, i, j, k, l])) => Ok(Place::Joined {
            request: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            ahead: u32::from_le_bytes([i, j, k, l]),
        }),
        Some((&kind, _)) => Err(Malformed::Kind { kind }),
    }
}

/// Decodes a body. Safe for any bytes; what it allocates is bounded by a small multiple of their number.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Malformed> {
    if body.len() > MAX_BODY {
        return Err(Malformed::Body { why: format!("{} bytes, at most {MAX_BODY}", body.len()) });
    }
    M::decode(body).map_err(|error| Malformed::Message { why: error.to_string() })
}

/// Takes a packet and its descriptors apart: the message, and the descriptors that are the message's own. For a message
/// of one packet; those of several are put together in `ahead`.
pub fn open<M: Message + Default>(packet: &[u8], fds: Vec<OwnedFd>) -> Result<(M, Vec<OwnedFd>), Malformed> {
    match place(packet)? {
        Place::Here(body) => Ok((decode(body)?, fds)),
        Place::Memfd => open_memfd(fds),
        Place::Ahead { .. } => Err(Malformed::Kind { kind: AHEAD }),
        Place::Joined { .. } => Err(Malformed::Kind { kind: JOINED }),
    }
}

/// The message whose body is the last descriptor, and the other descriptors.
pub(crate) fn open_memfd<M: Message + Default>(mut fds: Vec<OwnedFd>) -> Result<(M, Vec<OwnedFd>), Malformed> {
    let body = read_body(fds.pop().ok_or(Malformed::NoBody)?)?;
    Ok((decode(&body)?, fds))
}

/// Why a message cannot be put into packets.
#[derive(Debug, thiserror::Error)]
pub enum Unsealable {
    /// The receiver would drop it as malformed, and its sender would wait for an answer in vain.
    #[error("a body of {bytes} bytes, at most {MAX_BODY}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The kernel gave no memory for it.
    #[error("write the body to a memfd")]
    Memfd {
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// A message ready to be sent: the packet, and its body's memfd where it needs one.
#[derive(Debug)]
pub struct Sealed {
    /// The bytes of the packet.
    pub packet: Vec<u8>,
    /// To be sent as the last descriptor.
    pub body: Option<OwnedFd>,
}

/// Puts a message into a packet, or into a memfd when it is too long for one.
pub fn seal<M: Message>(message: &M) -> Result<Sealed, Unsealable> {
    let length = message.encoded_len();
    if length < MAX_PACKET {
        let mut packet = Vec::with_capacity(1 + length);
        packet.push(INLINE);
        message.encode_raw(&mut packet);
        return Ok(Sealed { packet, body: None });
    }
    Ok(Sealed { packet: vec![MEMFD], body: Some(write_body(message)?) })
}

/// The packet that brings descriptors of the message with this number.
pub(crate) fn ahead(request: u64) -> Vec<u8> {
    [&[AHEAD], &request.to_le_bytes()[..]].concat()
}

/// Seals the message with this number, of which so many descriptors went ahead.
pub(crate) fn seal_joined<M: Message>(message: &M, request: u64, ahead: usize) -> Result<Sealed, Unsealable> {
    let body = write_body(message)?;
    let packet = [&[JOINED], &request.to_le_bytes()[..], &(ahead as u32).to_le_bytes()[..]].concat();
    Ok(Sealed { packet, body: Some(body) })
}

fn write_body<M: Message>(message: &M) -> Result<OwnedFd, Unsealable> {
    let bytes = message.encoded_len();
    if bytes > MAX_BODY {
        return Err(Unsealable::TooLarge { bytes });
    }
    let body = kernel::memfd::sealed(c"coracle-message", &message.encode_to_vec());
    body.map_err(|source| Unsealable::Memfd { source })
}

fn read_body(fd: OwnedFd) -> Result<Vec<u8>, Malformed> {
    let unreadable = |error: std::io::Error| Malformed::Body { why: error.to_string() };
    // Nothing but a regular file (a memfd is one) may be read here: a pipe could keep us waiting for ever.
    let file = File::from(fd);
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(Malformed::Body { why: "not a memfd".into() });
    }
    let length = usize::try_from(about.len()).unwrap_or(usize::MAX);
    if length > MAX_BODY {
        return Err(Malformed::Body { why: format!("{length} bytes, at most {MAX_BODY}") });
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, 0).map_err(unreadable)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    fn request(env: usize) -> wire::MonitorRequest {
        let process = wire::Process { env: vec![vec![b'x'; env]], ..Default::default() };
        let launch = wire::Launch { process: Some(process), ..Default::default() };
        wire::MonitorRequest { id: 7, act: Some(wire::monitor_request::Act::Create(launch)) }
    }

    #[test]
    fn a_message_comes_back_whole_by_packet_and_by_memfd() {
        for env in [0, 1, MAX_PACKET, 1 << 20] {
            let sealed = seal(&request(env)).unwrap();
            assert!(sealed.packet.len() <= MAX_PACKET);
            let (back, fds) = open::<wire::MonitorRequest>(&sealed.packet, sealed.body.into_iter().collect()).unwrap();
            assert_eq!(back, request(env));
            assert!(fds.is_empty());
        }
    }

    #[test]
    fn what_no_receiver_takes_is_not_sent() {
        let long = request(MAX_BODY);
        assert!(matches!(seal(&long), Err(Unsealable::TooLarge { bytes }) if bytes > MAX_BODY));
        assert!(matches!(seal_joined(&long, 7, 1), Err(Unsealable::TooLarge { .. })));
    }

    #[test]
    fn a_pipe_or_an_overlong_file_is_no_body() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(matches!(open::<wire::Hello>(&[MEMFD], vec![reader.into()]), Err(Malformed::Body { .. })));
        let long = tempfile::tempfile().unwrap();
        long.set_len(MAX_BODY as u64 + 1).unwrap();
        assert!(matches!(open::<wire::Hello>(&[MEMFD], vec![long.into()]), Err(Malformed::Body { .. })));
        assert_eq!(open::<wire::Hello>(&[MEMFD], Vec::new()).unwrap_err(), Malformed::NoBody);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = open::<wire::MonitorRequest>(&bytes, Vec::new());
            let _ = open::<wire::MonitorReply>(&bytes, Vec::new());
            let _ = open::<wire::LauncherRequest>(&bytes, Vec::new());
            let _ = decode::<wire::Launch>(&bytes);
        }

        #[test]
        fn a_damaged_message_is_an_error_or_another_message(at in 0usize..500, byte: u8) {
            let mut sealed = seal(&request(300)).unwrap();
            let at = at % sealed.packet.len();
            sealed.packet[at] = byte;
            let _ = open::<wire::MonitorRequest>(&sealed.packet, Vec::new());
        }
    }
}
