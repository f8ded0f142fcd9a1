//! The wire contracts as Rust types, generated from `proto/`.
//!
//! Only the doors use this room (`cri`, `operator`, `cli`, `link`, the demo, tests): protobuf never reaches `pods` or
//! `model`.

/// The descriptors of every contract, as a serialized `FileDescriptorSet`: tests compare them with published tables.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The kubelet and a container runtime.
pub mod cri {
    /// Container Runtime Interface v1, as of v0.37.
    #[allow(missing_docs, unreachable_pub, deprecated, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }

    /// The containers that an answer holds encoded.
    pub fn containers(encoded: Vec<bytes::Bytes>) -> Result<Vec<v1::Container>, prost::DecodeError> {
        encoded.into_iter().map(prost::Message::decode).collect()
    }
}

/// What people ask of the daemon.
pub mod coracle {
    /// The first version.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("coracle.v1");
    }
}

/// Daemon, launcher and pod monitor.
pub mod monitor {
    /// The first version.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("coracle.monitor.v1");
    }
}
