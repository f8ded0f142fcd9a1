//! Runs one target: seeds, corpus, mutation until the time is over.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use testkit::{Random, seed};

use crate::mutate::mutated;

/// No input may take longer: that would be a hang to whoever waits for the answer.
const SLOWEST: Duration = Duration::from_secs(10);

/// What is fuzzed, and from what.
pub(crate) struct Target<'a> {
    /// Name of its corpus directory.
    pub(crate) name: &'a str,
    /// Good inputs, to be damaged.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// Pieces that mean something in the format.
    pub(crate) words: &'a [&'a [u8]],
}

impl Target<'_> {
    /// Calls `act` with every input; it panics where a promise is broken.
    pub(crate) fn run(mut self, mut act: impl FnMut(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(self.name);
        let mut files: Vec<PathBuf> = fs::read_dir(&corpus).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        self.seeds.extend(files.iter().map(|file| fs::read(file).unwrap()));
        let pool = self.seeds;
        for input in &pool {
            one(&corpus, input, &mut act);
        }
        let seed = seed("CORACLE_FUZZ_SEED");
        let limit = Duration::from_secs(env::var("CORACLE_FUZZ_SECONDS").map_or(3, |text| text.parse().unwrap()));
        eprintln!(
            "{}: {} inputs replayed; mutating for {limit:?} with CORACLE_FUZZ_SEED={seed}",
            self.name,
            pool.len()
        );
        let (mut random, end, mut count) = (Random::new(seed), Instant::now() + limit, 0_u64);
        while Instant::now() < end {
            one(&corpus, &mutated(&mut random, &pool, self.words), &mut act);
            count += 1;
        }
        eprintln!("{}: {count} mutated inputs", self.name);
    }
}

fn one(corpus: &Path, input: &[u8], act: &mut impl FnMut(&[u8])) {
    let from = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| act(input)));
    let took = from.elapsed();
    if result.is_ok() && took < SLOWEST {
        return;
    }
    let name = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let path = corpus.join(format!("found-{name:016x}"));
    let kept = fs::create_dir_all(corpus).and_then(|()| fs::write(&path, input));
    eprintln!("the input that failed is in {} ({kept:?})", path.display());
    match result {
        Err(panic) => resume_unwind(panic),
        Ok(()) => panic!("an input of {} bytes took {took:?}", input.len()),
    }
}
