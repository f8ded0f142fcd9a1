//! Makes inputs out of inputs: small random damage, words of the format, pieces of others.

use testkit::Random;

/// Longest input, bytes.
const LONGEST: usize = 256 << 10;

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 9] = [0, 1, 127, 128, 255, 1 << 16, i32::MAX as u64, u32::MAX as u64, u64::MAX];

/// A new input: one of `pool`, changed one to eight times. `words` are pieces that mean something in the format.
pub(crate) fn mutated(random: &mut Random, pool: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = random.choice(pool).clone();
    for _ in 0..=random.below(8) {
        change(random, &mut input, pool, words);
    }
    input.truncate(LONGEST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&[u8]]) {
    if input.is_empty() {
        input.extend(random.number().to_le_bytes());
        return;
    }
    let at = random.below(input.len());
    let length = 1 + random.below(32.min(input.len() - at));
    match random.below(10) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.number() as u8,
        2 => drop(input.drain(at..at + length)),
        3 => {
            let piece = input[at..at + length].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, piece);
        }
        4 => {
            let edge = *random.choice(&EDGES);
            let bytes = edge.to_le_bytes();
            let width = (*random.choice(&[1_usize, 2, 4, 8])).min(input.len() - at);
            input[at..at + width].copy_from_slice(&bytes[..width]);
        }
        5 => {
            let number = random.choice(&EDGES).to_string();
            input.splice(at..at, number.into_bytes());
        }
        6 | 7 if !words.is_empty() => {
            let word = random.choice(words).to_vec();
            let end = if random.below(2) == 0 { at } else { at + length };
            input.splice(at..end, word);
        }
        8 => {
            let other = random.choice(pool);
            if !other.is_empty() {
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        _ => input.truncate(at),
    }
}
