//! What is kept of commands' outputs: so much of each, and so much of all together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Most bytes kept of each output (CRI: ExecSync).
pub(super) const OUTPUT_BYTES: usize = 16 << 20;

/// Most bytes kept of all outputs of the node together: sixteen at their largest. Probes print a line; whoever has a
/// hundred commands print without end must not have the daemon killed for want of memory, and every pod's calls with
/// it.
const ALL_OUTPUTS_BYTES: usize = 256 << 20;

/// The room for outputs that a node has left.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: AtomicUsize::new(ALL_OUTPUTS_BYTES) }
    }
}

impl Budget {
    /// Takes up to `wanted` bytes; answers how many there were.
    fn take(&self, wanted: usize) -> usize {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(wanted)));
        before.map_or(0, |left| left.min(wanted))
    }
}

/// The beginning of one output. What comes after it is dropped, so that the command goes on.
#[derive(Debug)]
pub(super) struct Output<'a> {
    kept: Vec<u8>,
    budget: &'a Budget,
    /// Bytes of the budget that are its own.
    taken: usize,
    /// Something was dropped: what follows would not be what the command printed next.
    cut: bool,
}

impl<'a> Output<'a> {
    /// Nothing yet.
    pub(super) fn of(budget: &'a Budget) -> Self {
        Self { kept: Vec::new(), budget, taken: 0, cut: false }
    }

    /// Takes in what was read, as far as there is room.
    pub(super) fn keep(&mut self, chunk: &[u8]) {
        if self.cut {
            return;
        }
        let room = self.budget.take(chunk.len().min(OUTPUT_BYTES - self.kept.len()));
        self.taken += room;
        self.kept.extend_from_slice(&chunk[..room]);
        self.cut = room < chunk.len();
    }

    /// What was kept. Its room is free again: it leaves the daemon now.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_keeps_its_first_sixteen_mebibytes() {
        let budget = Budget::default();
        let mut output = Output::of(&budget);
        output.keep(&vec![b'a'; OUTPUT_BYTES - 3]);
        output.keep(b"bcdefg");
        output.keep(b"more");
        let kept = output.into_bytes();
        assert_eq!(kept.len(), OUTPUT_BYTES);
        assert!(kept.ends_with(b"abcd"));
    }

    #[test]
    fn when_the_node_has_no_room_left_outputs_are_cut_and_when_one_ends_there_is_room_again() {
        let budget = Budget { left: AtomicUsize::new(10) };
        let (mut first, mut second) = (Output::of(&budget), Output::of(&budget));
        first.keep(b"123456");
        second.keep(b"abcdef");
        // Not that the missing bytes end up in the middle.
        assert_eq!(first.into_bytes(), b"123456");
        second.keep(b"ghi");
        let mut third = Output::of(&budget);
        third.keep(b"ABCDEFGH");
        assert_eq!(second.into_bytes(), b"abcd");
        assert_eq!(third.into_bytes(), b"ABCDEF");
        assert_eq!(budget.left.load(Ordering::Relaxed), 10, "all is given back");
    }
}
