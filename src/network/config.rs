//! The `[network]` settings: everything about the built-in network that an operator may choose.

use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest name of a link: `IFNAMSIZ` less the closing zero.
pub(crate) const LINK_NAME_MAX: usize = 15;

/// Names that the kernel takes in its `net.*.conf` settings for every link, and the one of the host's own loopback.
const TAKEN_NAMES: [&str; 3] = ["all", "default", "lo"];

/// Addresses that no pod can have or be reached at, and what they are for (IANA's registries of special addresses).
const SPECIAL: [(&str, &str); 9] = [
    ("0.0.0.0/8", "\"this network\""),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved and broadcast"),
    ("::/8", "unspecified, loopback and forms of IPv4"),
    ("100::/64", "discard-only"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// Longest time that a plugin may be given, in seconds: that of the launcher's programs.
const PLUGIN_TIMEOUT_MAX_S: u64 = 600;

/// Which plugins of a list we do ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NativePlugins {
    /// All that we can, or none.
    All(bool),
    /// Those of these types.
    Types(Vec<String>),
}

impl NativePlugins {
    pub(crate) fn includes(&self, kind: &str) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Types(types) => types.iter().any(|one| one == kind),
        }
    }
}

/// Which of a pod's addresses is its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpPref {
    /// The first of IPv4.
    Ipv4,
    /// The first of IPv6.
    Ipv6,
    /// Whichever the plugins name first.
    Cni,
}

/// Who maps a pod's ports to the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPortsBy {
    /// A plugin of the list that says that it can (`portMappings`); without one nobody does.
    Portmap,
    /// We do, where no plugin of the list can.
    Always,
}

/// Settings of the pods' network. The defaults work on a host without CNI configuration that uses neither subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of CNI configurations. None, written `""`: there are none, the built-in network is the only one.
    #[serde(with = "path_or_none")]
    pub conf_dir: Option<PathBuf>,
    /// Where plugins lie, the first before the others.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are kept for other tools, as libcni does: `results` in it.
    pub cache_dir: PathBuf,
    /// How many networks a pod gets, of those that the directory has, in the order of their files; 0: all.
    pub max_conf_num: usize,
    /// A template that is written into the directory of configurations once the node is told its pods' range.
    #[serde(with = "path_or_none")]
    pub conf_template: Option<PathBuf>,
    /// Which plugins of a list we do ourselves, from the same configuration: `true`, `false` or a list of types.
    pub native_plugins: NativePlugins,
    /// Whether there is a built-in network while the directory has no configuration.
    pub builtin: bool,
    /// Which of a pod's addresses is its first.
    pub ip_pref: IpPref,
    /// Who maps a pod's ports to the host's.
    pub host_ports: HostPortsBy,
    /// Capability arguments that a pod may choose by its annotations `cni.coracle.dev/<capability>`, as `ips` or `mac`.
    pub pod_capabilities: Vec<String>,
    /// How long a run of a plugin may take, in seconds.
    pub plugin_timeout_s: u64,
    /// Name of the bridge. Each instance on a host needs its own.
    pub bridge: String,
    /// IPv4 addresses of the pods; the first is the gateway. None, written `""`, for a network without IPv4.
    #[serde(with = "subnet")]
    pub subnet_v4: Option<Ipv4Net>,
    /// IPv6 addresses of the pods; the first is the gateway. None, written `""`, for a network without IPv6. Not used,
    /// with a note, where the kernel has IPv6 turned off.
    #[serde(with = "subnet")]
    pub subnet_v6: Option<Ipv6Net>,
    /// Largest packet in bytes; `None` takes that of the link of the host's default route.
    pub mtu: Option<u32>,
    /// Whether pods reach the world under the host's address.
    pub masquerade: bool,
    /// Whether a pod reaches itself through a service address.
    pub hairpin: bool,
    /// Where network namespaces are named; people and CNI plugins expect `/run/netns`.
    pub netns_dir: PathBuf,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Used in place of `resolv_conf` when that names only the local stub of systemd-resolved, which pods cannot reach.
    pub resolv_conf_behind_stub: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            conf_dir: Some("/etc/cni/net.d".into()),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            max_conf_num: 1,
            conf_template: None,
            native_plugins: NativePlugins::All(true),
            builtin: true,
            ip_pref: IpPref::Ipv4,
            host_ports: HostPortsBy::Portmap,
            pod_capabilities: Vec::new(),
            plugin_timeout_s: 60,
            bridge: "coracle0".into(),
            subnet_v4: Some("10.88.0.0/16".parse().expect("a literal subnet")),
            subnet_v6: Some("fdc0:7ac1:e088::/64".parse().expect("a literal subnet")),
            mtu: None,
            masquerade: true,
            hairpin: true,
            netns_dir: "/run/netns".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            resolv_conf_behind_stub: "/run/systemd/resolve/resolv.conf".into(),
        }
    }
}

/// A number for a text, the same in every release, unlike the standard hasher's: a restarted instance finds its own.
/// FNV-1a.
pub(crate) fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

impl Config {
    /// Settings for an instance that must not meet any other on this host (demo, tests): bridge name and subnets are
    /// derived from `seed`, a text of at least a few random characters. IPv4 is a /24 inside 10.128.0.0/9. The host's
    /// CNI configuration is not looked at.
    pub fn apart(seed: &str) -> Self {
        let [a, b, c, d, e, ..] = stable_hash(seed).to_be_bytes();
        let v4 = format!("10.{}.{}.0/24", 128 | a, b);
        let v6 = format!("fdc0:7ac1:{:02x}{:02x}:{:02x}{:02x}::/64", a, b, c, d);
        Self {
            conf_dir: None,
            bridge: format!("crt{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}"),
            subnet_v4: Some(v4.parse().expect("built from numbers in range")),
            subnet_v6: Some(v6.parse().expect("built from numbers in range")),
            ..Self::default()
        }
    }

    /// Refuses what can never work, naming the setting.
    pub fn check(&self) -> Result<()> {
        let setting = |key, why: String| Err(Error::Setting { key, why });
        if !is_link_name(&self.bridge) {
            return setting("bridge", format!("{:?} is not a link name: 1 to 15 of a-z A-Z 0-9 . _ -", self.bridge));
        }
        if TAKEN_NAMES.contains(&self.bridge.as_str()) {
            return setting("bridge", format!("{:?} is the kernel's own; choose another name", self.bridge));
        }
        if self.subnet_v4.is_none() && self.subnet_v6.is_none() {
            return setting("subnet_v4", "a network needs subnet_v4 or subnet_v6".into());
        }
        if let Some(net) = self.subnet_v4
            && (net.prefix_len() > 30 || net.addr() != net.network() || net.prefix_len() < 8)
        {
            return setting("subnet_v4", format!("{net} is not a subnet between /8 and /30 without host bits"));
        }
        if let Some(net) = self.subnet_v6
            && (net.prefix_len() > 126 || net.addr() != net.network() || net.prefix_len() < 16)
        {
            return setting("subnet_v6", format!("{net} is not a subnet between /16 and /126 without host bits"));
        }
        let subnets = [("subnet_v4", self.subnet_v4.map(IpNet::V4)), ("subnet_v6", self.subnet_v6.map(IpNet::V6))];
        for (key, net) in subnets.into_iter().filter_map(|(key, net)| Some((key, net?))) {
            for (special, what) in SPECIAL {
                let special: IpNet = special.parse().expect("a literal subnet");
                if net.contains(&special) || special.contains(&net) {
                    let why = format!("{net} lies in {special}, or holds it: those addresses are {what}");
                    return setting(key, why);
                }
            }
        }
        if let Some(mtu) = self.mtu
            && !(1280..=65535).contains(&mtu)
        {
            return setting("mtu", format!("{mtu} is outside 1280 to 65535 bytes (IPv6 needs 1280)"));
        }
        if !(1..=PLUGIN_TIMEOUT_MAX_S).contains(&self.plugin_timeout_s) {
            let why = format!("{} is outside 1 to {PLUGIN_TIMEOUT_MAX_S} seconds", self.plugin_timeout_s);
            return setting("plugin_timeout_s", why);
        }
        if self.bin_dirs.is_empty() {
            return setting("bin_dirs", "no directory is named; plugins have to lie somewhere".into());
        }
        if self.conf_dir.is_none() && self.conf_template.is_some() {
            return setting("conf_template", "it is written into conf_dir, and there is none".into());
        }
        if self.conf_dir.is_none() && !self.builtin {
            return setting("builtin", "false leaves no network at all, since there is no conf_dir".into());
        }
        let paths = [
            ("netns_dir", self.netns_dir.as_path()),
            ("resolv_conf", &self.resolv_conf),
            ("resolv_conf_behind_stub", &self.resolv_conf_behind_stub),
            ("cache_dir", &self.cache_dir),
        ];
        let optional = [("conf_dir", &self.conf_dir), ("conf_template", &self.conf_template)];
        let optional = optional.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
        let bin_dirs = self.bin_dirs.iter().map(|dir| ("bin_dirs", dir.as_path()));
        for (key, path) in paths.into_iter().chain(optional).chain(bin_dirs) {
            if !path.is_absolute() {
                return setting(key, format!("{} is not an absolute path", Path::display(path)));
            }
        }
        Ok(())
    }
}

/// A path in a file, where a key that is absent means the default: `""` is none.
mod path_or_none {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().unwrap_or(Path::new("")).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Some(PathBuf::deserialize(deserializer)?).filter(|path| !path.as_os_str().is_empty()))
    }
}

/// A subnet in a file, where a key that is absent means the default: `""` is none.
mod subnet {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(net: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match net {
            Some(net) => serializer.collect_str(net),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|why| D::Error::custom(format!("{text:?} is not a subnet: {why}")))
    }
}

/// Whether the kernel would take this as a link's name, and it is also safe in paths and in rule names.
pub(crate) fn is_link_name(name: &str) -> bool {
    (1..=LINK_NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check() {
        Config::default().check().unwrap();
        Config::apart("a throwaway node").check().unwrap();
    }

    #[test]
    fn instances_with_other_seeds_share_nothing() {
        let (one, other) = (Config::apart("one"), Config::apart("other"));
        assert_ne!(one.bridge, other.bridge);
        assert_ne!(one.subnet_v4, other.subnet_v4);
        assert_ne!(one.subnet_v6, other.subnet_v6);
        assert_eq!(one, Config::apart("one"));
    }

    #[test]
    fn one_family_can_be_turned_off() {
        let read = |text: &str| serde_json::from_str::<Config>(text);
        let only_v4 = read(r#"{"subnet_v6": ""}"#).unwrap();
        assert_eq!((only_v4.subnet_v4, only_v4.subnet_v6), (Config::default().subnet_v4, None));
        let written = serde_json::to_string(&only_v4).unwrap();
        assert_eq!(read(&written).unwrap(), only_v4);
        let wrong = read(r#"{"subnet_v4": "10.0.0.0"}"#).unwrap_err().to_string();
        assert!(wrong.contains("10.0.0.0"), "{wrong}");
    }

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        let base = Config::default;
        for (wrong, key) in [
            (Config { bridge: "".into(), ..base() }, "bridge"),
            (Config { bridge: "a/b".into(), ..base() }, "bridge"),
            (Config { bridge: "sixteen-letters-".into(), ..base() }, "bridge"),
            (Config { bridge: ".".into(), ..base() }, "bridge"),
            (Config { bridge: "..".into(), ..base() }, "bridge"),
            (Config { bridge: "lo".into(), ..base() }, "bridge"),
            (Config { bridge: "all".into(), ..base() }, "bridge"),
            (Config { bridge: "default".into(), ..base() }, "bridge"),
            (Config { subnet_v4: None, subnet_v6: None, ..base() }, "subnet_v4"),
            (Config { subnet_v4: Some("10.0.0.0/31".parse().unwrap()), ..base() }, "subnet_v4"),
            (Config { subnet_v4: Some("10.0.0.1/24".parse().unwrap()), ..base() }, "subnet_v4"),
            (Config { subnet_v6: Some("fd00::1/64".parse().unwrap()), ..base() }, "subnet_v6"),
            (Config { mtu: Some(68), ..base() }, "mtu"),
            (Config { netns_dir: "run/netns".into(), ..base() }, "netns_dir"),
        ] {
            match wrong.check() {
                Err(Error::Setting { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{wrong:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_subnet_that_no_pod_can_live_in_is_named_with_its_key() {
        let refused = |config: Config| match config.check() {
            Err(error @ Error::Setting { key, .. }) => (key, error.to_string()),
            other => panic!("{config:?} gave {other:?}"),
        };
        for wrong in [
            "0.0.0.0/8",
            "0.1.0.0/16",
            "127.0.0.0/8",
            "127.1.0.0/24",
            "169.254.0.0/16",
            "169.254.7.0/24",
            "169.0.0.0/8",
            "224.0.0.0/8",
            "239.1.0.0/16",
            "240.0.0.0/8",
            "255.255.255.0/24",
        ] {
            let (key, text) = refused(Config { subnet_v4: Some(wrong.parse().unwrap()), ..Config::default() });
            assert!(key == "subnet_v4" && text.contains(wrong), "{text}");
        }
        for wrong in ["::/64", "::ffff:10.0.0.0/112", "100::/64", "fe80::/64", "fe90:1::/64", "ff00::/16", "ff02::/64"]
        {
            let net: Ipv6Net = wrong.parse().unwrap();
            let (key, text) = refused(Config { subnet_v6: Some(net), ..Config::default() });
            assert!(key == "subnet_v6" && text.contains(&net.to_string()), "{text}");
        }
        for (v4, v6) in
            [("10.0.0.0/8", "fd00::/48"), ("100.64.0.0/10", "2001:db8::/64"), ("192.168.9.0/24", "fc00::/16")]
        {
            let (subnet_v4, subnet_v6) = (Some(v4.parse().unwrap()), Some(v6.parse().unwrap()));
            Config { subnet_v4, subnet_v6, ..Config::default() }.check().unwrap();
        }
    }
}
