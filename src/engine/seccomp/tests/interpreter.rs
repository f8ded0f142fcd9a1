//! Classic BPF as the kernel runs it on `struct seccomp_data`.

use kernel::seccomp::SockFilter;

use crate::seccomp::Arch;

/// A system call as a filter sees it.
pub(super) struct Call {
    pub(super) arch: Arch,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch.audit(),
            8 | 12 => 0,
            16..64 => {
                let argument = self.args[usize::try_from((offset - 16) / 8).unwrap()];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// What the filter returns.
pub(super) fn run(program: &[SockFilter], call: &Call) -> u32 {
    execute(program, call).0
}

/// How many instructions it takes.
pub(super) fn steps(program: &[SockFilter], call: &Call) -> usize {
    execute(program, call).1
}

fn execute(program: &[SockFilter], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0);
    for step in 1.. {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return (k, step),
            other => panic!("operation {other:#x}"),
        }
    }
    unreachable!("a program ends in a return")
}
