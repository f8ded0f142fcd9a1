//! Descriptors that do not fit beside one message: they come ahead of it, in packets of their own.
//!
//! The kernel passes at most [`MAX_FDS`] descriptors at once, and a container may have more mounts. The packets carry
//! the number of the request that they belong to, so that what a sender began and gave up is never taken for the next
//! one's.

use std::os::fd::OwnedFd;

use prost::Message;

use crate::frame::{self, MAX_FDS, Malformed, Place};

/// Most descriptors of one message. Above any container that has been seen; the receiver's own limit of open files may
/// be lower, and a packet whose descriptors do not fit under it is lost as a whole.
pub const MAX_MESSAGE_FDS: usize = 4096;

/// Descriptors beside a message that has others ahead of it: its body takes the last place.
const BESIDE: usize = MAX_FDS - 1;

/// How many of a message's descriptors go ahead of it.
pub(crate) fn count(fds: usize) -> usize {
    fds.saturating_sub(BESIDE)
}

/// The descriptors that wait for their message, on the receiver's side. One message's at a time: packets arrive in
/// order, and a sender finishes one before it begins another, or never finishes it.
#[derive(Debug)]
pub(crate) struct Ahead {
    most: usize,
    request: u64,
    fds: Vec<OwnedFd>,
}

impl Ahead {
    /// Nothing yet, and never more than `most`.
    pub(crate) fn with_room(most: usize) -> Ahead {
        Ahead { most, request: 0, fds: Vec::new() }
    }

    /// Whether nothing waits for its message.
    pub(crate) fn is_empty(&self) -> bool {
        self.fds.is_empty()
    }

    /// Takes the next packet: its message, with all descriptors in order; `None` when it only brought descriptors.
    ///
    /// What does not belong to the packet's own message is closed, so that nobody's descriptors pile up.
    pub(crate) fn open<M: Message + Default>(
        &mut self,
        packet: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Option<(M, Vec<OwnedFd>)>, Malformed> {
        match frame::place(packet)? {
            Place::Ahead { request } => {
                if request != self.request {
                    self.request = request;
                    self.fds = Vec::new();
                }
                if self.fds.len() + fds.len() > self.most {
                    self.fds = Vec::new();
                    return Err(Malformed::Descriptors { why: format!("more than {}", self.most) });
                }
                self.fds.extend(fds);
                Ok(None)
            }
            Place::Joined { request, ahead } => {
                let mut all = std::mem::take(&mut self.fds);
                if self.request != request || all.len() != ahead as usize {
                    let why = format!("{} came ahead of request {}, not {ahead} of {request}", all.len(), self.request);
                    return Err(Malformed::Descriptors { why });
                }
                let (message, beside) = frame::open_memfd(fds)?;
                all.extend(beside);
                Ok(Some((message, all)))
            }
            Place::Here(_) | Place::Memfd => frame::open(packet, fds).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::MetadataExt};

    use super::*;
    use crate::wire;

    fn hello(id: u64) -> wire::MonitorRequest {
        wire::MonitorRequest { id, ..Default::default() }
    }

    /// Files, each told from the others by its length.
    fn files(lengths: std::ops::Range<u64>) -> Vec<OwnedFd> {
        let file = |length| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(length).unwrap();
            file.into()
        };
        lengths.map(file).collect()
    }

    fn lengths(fds: Vec<OwnedFd>) -> Vec<u64> {
        fds.into_iter().map(|fd| File::from(fd).metadata().unwrap().size()).collect()
    }

    fn joined(id: u64, ahead: usize, mut fds: Vec<OwnedFd>) -> (Vec<u8>, Vec<OwnedFd>) {
        let sealed = frame::seal_joined(&hello(id), id, ahead).unwrap();
        fds.extend(sealed.body);
        (sealed.packet, fds)
    }

    #[test]
    fn a_message_gets_all_its_descriptors_in_order() {
        let mut ahead = Ahead::with_room(MAX_MESSAGE_FDS);
        for fds in [files(0..3), files(3..5)] {
            assert!(ahead.open::<wire::MonitorRequest>(&frame::ahead(7), fds).unwrap().is_none());
        }
        // A message that fits in its packet may come in between.
        let small = frame::seal(&hello(8)).unwrap();
        let (message, fds) = ahead.open::<wire::MonitorRequest>(&small.packet, Vec::new()).unwrap().unwrap();
        assert_eq!((message, fds.len()), (hello(8), 0));
        let (packet, fds) = joined(7, 5, files(5..6));
        let (message, fds) = ahead.open::<wire::MonitorRequest>(&packet, fds).unwrap().unwrap();
        assert_eq!((message, lengths(fds)), (hello(7), vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn what_was_given_up_is_never_the_next_ones() {
        let mut ahead = Ahead::with_room(MAX_MESSAGE_FDS);
        let (reader, writer) = std::io::pipe().unwrap();
        ahead.open::<wire::MonitorRequest>(&frame::ahead(1), vec![writer.into()]).unwrap();
        ahead.open::<wire::MonitorRequest>(&frame::ahead(2), files(0..1)).unwrap();
        assert_eq!(std::io::read_to_string(reader).unwrap(), "", "the first one's descriptor is closed");
        let (packet, fds) = joined(2, 1, Vec::new());
        assert_eq!(lengths(ahead.open::<wire::MonitorRequest>(&packet, fds).unwrap().unwrap().1), [0]);

        // One whose packets were lost is refused, whichever they were.
        for (request, count) in [(3, 2), (4, 1)] {
            ahead.open::<wire::MonitorRequest>(&frame::ahead(3), files(0..1)).unwrap();
            let (packet, fds) = joined(request, count, Vec::new());
            let refused = ahead.open::<wire::MonitorRequest>(&packet, fds);
            assert!(matches!(refused, Err(Malformed::Descriptors { .. })), "{request}");
        }
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut ahead = Ahead::with_room(3);
        ahead.open::<wire::MonitorRequest>(&frame::ahead(1), files(0..3)).unwrap();
        let refused = ahead.open::<wire::MonitorRequest>(&frame::ahead(1), files(3..4));
        assert!(matches!(refused, Err(Malformed::Descriptors { .. })));
        // And the next message finds room again.
        ahead.open::<wire::MonitorRequest>(&frame::ahead(2), files(0..3)).unwrap();
        let (packet, fds) = joined(2, 3, Vec::new());
        assert_eq!(lengths(ahead.open::<wire::MonitorRequest>(&packet, fds).unwrap().unwrap().1), [0, 1, 2]);
    }

    #[test]
    fn as_many_go_ahead_as_do_not_fit_beside() {
        for (fds, want) in [(0, 0), (252, 0), (253, 1), (600, 348)] {
            assert_eq!(count(fds), want, "{fds}");
        }
    }
}
