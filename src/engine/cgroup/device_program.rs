//! Device access of version 2: the list as an eBPF program that the kernel asks at every open and mknod.

use kernel::bpf::Instruction;
use model::DevicePermissions;

use crate::device::{DeviceKind, DeviceRule};

/// `r0 = imm`
const SET: u8 = 0xb7;
/// `r = (u32) source`
const COPY_32: u8 = 0xbc;
/// `r &= imm`, 32 bits.
const AND_32: u8 = 0x54;
/// `r >>= imm`, 32 bits.
const SHIFT_RIGHT_32: u8 = 0x74;
/// `r = *(u32 *)(source + offset)`
const LOAD_32: u8 = 0x61;
/// `if r != imm goto offset`
const JUMP_IF_NOT: u8 = 0x55;
/// `if r != source goto offset`
const JUMP_IF_OTHER: u8 = 0x5d;
/// `return r0`
const EXIT: u8 = 0x95;

/// Registers: the answer, the context and later scratch, what kind, which access, which numbers.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program. It asks each rule in turn: the first that fits in kind and numbers and allows all of the access that
/// is wanted says yes; what fits none is denied.
pub fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx: the access in the upper half of the first word, the kind in the lower.
        step(LOAD_32, KIND, SCRATCH, 0, 0),
        step(COPY_32, ACCESS, KIND, 0, 0),
        step(AND_32, KIND, 0, 0, 0xFFFF),
        step(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        step(LOAD_32, MAJOR, SCRATCH, 4, 0),
        step(LOAD_32, MINOR, SCRATCH, 8, 0),
    ];
    for rule in rules {
        program.extend(block(rule));
    }
    program.push(step(SET, ANSWER, 0, 0, 0));
    program.push(step(EXIT, 0, 0, 0, 0));
    program
}

fn block(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = match rule.kind {
        None => None,
        Some(DeviceKind::Block) => Some(1),
        Some(DeviceKind::Char) => Some(2),
        // The kernel does not ask about pipes.
        Some(DeviceKind::Fifo) => return Vec::new(),
    };
    let mut tests = Vec::new();
    tests.extend(kind.map(|kind| step(JUMP_IF_NOT, KIND, 0, 0, kind)));
    if rule.access != DevicePermissions::ALL {
        tests.push(step(COPY_32, SCRATCH, ACCESS, 0, 0));
        tests.push(step(AND_32, SCRATCH, 0, 0, access_bits(rule.access)));
        tests.push(step(JUMP_IF_OTHER, SCRATCH, ACCESS, 0, 0));
    }
    // Device numbers have at most 20 bits, so the operand's sign is never in the way.
    tests.extend(rule.major.map(|major| step(JUMP_IF_NOT, MAJOR, 0, 0, major as i32)));
    tests.extend(rule.minor.map(|minor| step(JUMP_IF_NOT, MINOR, 0, 0, minor as i32)));
    tests.push(step(SET, ANSWER, 0, 0, 1));
    tests.push(step(EXIT, 0, 0, 0, 0));
    let end = tests.len();
    for (index, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JUMP_IF_NOT | JUMP_IF_OTHER) {
            // At most eight instructions a rule.
            test.offset = (end - index - 1) as i16;
        }
    }
    tests
}

fn access_bits(access: DevicePermissions) -> i32 {
    i32::from(access.mknod) | i32::from(access.read) << 1 | i32::from(access.write) << 2
}

fn step(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::default_rules;

    /// Runs the program as the kernel would.
    fn allows(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let jump = |taken: bool, at: usize| if taken { at + usize::try_from(step.offset).unwrap() } else { at };
            match step.code {
                SET => registers[to] = step.immediate as u64,
                COPY_32 => registers[to] = registers[from] & 0xFFFF_FFFF,
                AND_32 => registers[to] &= step.immediate as u32 as u64,
                SHIFT_RIGHT_32 => registers[to] = (registers[to] & 0xFFFF_FFFF) >> step.immediate,
                LOAD_32 => registers[to] = u64::from(context[usize::try_from(step.offset).unwrap() / 4]),
                JUMP_IF_NOT => at = jump(registers[to] != step.immediate as u64, at),
                JUMP_IF_OTHER => at = jump(registers[to] != registers[from], at),
                EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn the_default_list_lets_nodes_be_made_and_few_be_opened() {
        let program = program(&default_rules());
        assert!(allows(&program, CHAR, READ | WRITE, 1, 3), "null");
        assert!(allows(&program, CHAR, READ | WRITE, 136, 7), "a terminal");
        assert!(allows(&program, BLOCK, MKNOD, 8, 0), "making a disk's node");
        assert!(!allows(&program, BLOCK, READ, 8, 0), "reading a disk");
        assert!(!allows(&program, BLOCK, MKNOD | READ, 8, 0), "both at once");
        assert!(!allows(&program, CHAR, READ, 1, 1), "memory");
    }

    #[test]
    fn access_is_no_wider_than_the_rule() {
        let read = DevicePermissions { read: true, write: false, mknod: false };
        let rule = DeviceRule { kind: Some(DeviceKind::Block), major: Some(8), minor: None, access: read };
        let program = program(&[rule]);
        assert!(allows(&program, BLOCK, READ, 8, 5));
        assert!(!allows(&program, BLOCK, READ | WRITE, 8, 5));
        assert!(!allows(&program, CHAR, READ, 8, 5));
        assert!(!allows(&program, BLOCK, READ, 9, 5));
        assert!(allows(&super::program(&[DeviceRule::ANY]), BLOCK, READ | WRITE | MKNOD, 259, 1));
    }

    #[test]
    #[ignore = "needs root: loads a program into the kernel"]
    fn the_kernel_accepts_the_program() {
        kernel::bpf::load_device_program(&program(&default_rules())).unwrap();
        kernel::bpf::load_device_program(&program(&[])).unwrap();
    }
}
