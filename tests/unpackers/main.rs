//! The same layers unpacked by this engine, by umoci and by containerd: the trees are equal to the last attribute, or
//! the difference is listed with its reason.
//!
//! `corpus` has the layers, `peers` who unpacks them, `tree` what is then there; what differs has its reason in
//! `differences.toml`. umoci and containerd's unpacker are built by `tests/tools/unpackers/build`. `hostile`: what is
//! to do harm, through the same door. `check`: the store's own check finds all of it well.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod check;
mod corpus;
mod hostile;
#[path = "../differential/list.rs"]
mod list;
mod peers;
mod tree;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use list::List;
use peers::{PEERS, Scratch};
use tree::differences;

#[test]
#[ignore = "needs root: unpacks layers and mounts overlay"]
fn every_layer_unpacks_to_the_same_tree_whoever_unpacks_it() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unpackers/differences.toml");
    let mut list = List::read(&fs::read_to_string(list).unwrap());
    let mut unlisted = String::new();
    let mut compared = 0;
    for case in corpus::cases() {
        let scratch = Scratch::new(&case);
        let ours = scratch.ours();
        for (peer, unpack) in PEERS {
            let theirs = unpack(&scratch);
            compared += theirs.iter().flat_map(|tree| tree.values()).map(BTreeMap::len).sum::<usize>();
            for (what, ours_has, theirs_has) in differences(&ours, &theirs) {
                if !list.explains(case.name, peer, &what, ours_has, theirs_has) {
                    writeln!(
                        unlisted,
                        "{:?} by {peer}: {what}\n    ours   {ours_has}\n    theirs {theirs_has}",
                        case.name
                    )
                    .unwrap();
                }
            }
        }
    }
    let unused = list.unused();
    assert!(
        unlisted.is_empty() && unused.is_empty(),
        "differences without a reason:\n{unlisted}\nreasons without a difference:\n{unused}"
    );
    assert!(compared > 2000, "only {compared} things were compared");
}
