//! The built-in network, written as the configuration list it is.
//!
//! The text is what an operator could have put into `/etc/cni/net.d` to get the same pods, except that its leases lie
//! in this instance's own directory.

use std::path::Path;

use serde_json::{Value, json};

use crate::Config;

/// Name of the network, and of its lease directory below the data directory.
pub(crate) const NAME: &str = "coracle";

/// What the host decides about the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    /// Whether the kernel speaks IPv6.
    pub(crate) ipv6: bool,
    /// Largest packet on the way out, in bytes.
    pub(crate) mtu: u32,
}

/// The list as JSON. `leases` is the data directory of its addresses.
pub(crate) fn conflist(config: &Config, leases: &Path, host: Host) -> String {
    let v4 = config.subnet_v4.map(|net| net.to_string());
    let v6 = config.subnet_v6.filter(|_| host.ipv6).map(|net| net.to_string());
    // IPv4 first: the first address is the pod's primary one.
    let ranges: Vec<Value> = v4.into_iter().chain(v6).map(|subnet| json!([{ "subnet": subnet }])).collect();
    let list = json!({
        "cniVersion": "1.1.0",
        "name": NAME,
        "plugins": [{
            "type": "bridge",
            "capabilities": { "ips": true },
            "bridge": config.bridge,
            "isGateway": true,
            "isDefaultGateway": true,
            "ipMasq": config.masquerade,
            "ipMasqBackend": "nftables",
            "hairpinMode": config.hairpin,
            "mtu": config.mtu.unwrap_or(host.mtu),
            "ipam": { "type": "host-local", "dataDir": leases, "ranges": ranges },
        }, {
            "type": "portmap",
            "capabilities": { "portMappings": true },
        }],
    });
    list.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni::Conflist;

    use crate::native::Bridge;

    const HOST: Host = Host { ipv6: true, mtu: 1400 };

    #[test]
    fn the_built_in_list_is_one_that_the_native_plugins_take_whole() {
        for config in [Config::default(), Config { subnet_v6: None, mtu: Some(9000), ..Config::apart("a seed") }] {
            let text = conflist(&config, Path::new("/var/lib/coracle/network"), HOST);
            let list = Conflist::parse(text.as_bytes()).unwrap();
            assert_eq!((list.name.as_str(), list.plugins.len()), (NAME, 2));
            Bridge::new(&list.name, &list.plugins[0], None).unwrap();
        }
    }

    #[test]
    fn a_host_without_ipv6_gets_a_list_without_it() {
        let text = conflist(&Config::default(), Path::new("/x"), Host { ipv6: false, ..HOST });
        assert!(text.contains("10.88.0.0/16") && !text.contains("fdc0:"), "{text}");
    }
}
