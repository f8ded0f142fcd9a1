//! Chain ids: the name of a layer that also says what lies below it.

use model::Digest;

use crate::hash::digest_of;

/// The chain id of each layer, lowest first (image-spec, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_depends_on_every_layer_below() {
        let [a, b, c] = [1, 2, 3].map(|n| Digest::from_sha256([n; 32]));
        let chain = chain_ids(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], digest_of(format!("{a} {b}").as_bytes()));
        assert_eq!(chain[2], digest_of(format!("{} {c}", chain[1]).as_bytes()));
        assert_ne!(chain_ids(&[b, a, c])[2], chain[2]);
    }
}
