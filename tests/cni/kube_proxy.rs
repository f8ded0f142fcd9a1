//! Services as kube-proxy programs them, small: its table in the mode `nftables`, its chains in the mode `iptables`.
//!
//! Each is written whole, as at each of its rounds; what others have is not touched.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use crate::host::Netns;

/// What kube-proxy marks packets with that are to be masqueraded.
const MARK: &str = "0x4000";

/// How it programs the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
}

/// A port of a service, with one endpoint or none.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// The cluster's address and port for it.
    pub(crate) cluster: SocketAddr,
    pub(crate) node_port: u16,
    pub(crate) endpoint: Option<SocketAddr>,
}

/// kube-proxy on a host.
pub(crate) struct KubeProxy<'a> {
    pub(crate) mode: Mode,
    pub(crate) host: &'a Netns,
    /// The host's addresses under which node ports are.
    pub(crate) node: [IpAddr; 2],
    /// The pods' ranges.
    pub(crate) pods: [&'static str; 2],
    pub(crate) services: Vec<Service>,
}

impl KubeProxy<'_> {
    /// Writes everything.
    pub(crate) fn program(&self) {
        self.write(&self.services);
    }

    /// Takes every service away.
    pub(crate) fn flush(&self) {
        self.write(&[]);
    }

    /// What is written, as the kernel has it.
    pub(crate) fn written(&self) -> String {
        let texts = self.families().into_iter().map(|(family, ..)| match self.mode {
            Mode::Nftables => self.run("nft", &["list", "table", family, "kube-proxy"], ""),
            Mode::Iptables => {
                let all = self.run(&format!("{}-save", iptables(family)), &[], "");
                let own = all.lines().filter(|line| line.contains("KUBE-"));
                // Less the counters of a chain.
                own.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
            }
        });
        texts.collect()
    }

    fn families(&self) -> [(&'static str, IpAddr, &'static str); 2] {
        [("ip", self.node[0], self.pods[0]), ("ip6", self.node[1], self.pods[1])]
    }

    fn write(&self, services: &[Service]) {
        for (family, node, pods) in self.families() {
            let own: Vec<_> = services.iter().filter(|one| one.cluster.is_ipv4() == node.is_ipv4()).collect();
            match self.mode {
                Mode::Nftables => {
                    self.run("nft", &["-f", "-"], &table(family, node, pods, &own));
                }
                Mode::Iptables => {
                    self.run(&format!("{}-restore", iptables(family)), &["--noflush"], &chains(pods, &own));
                    self.jump(iptables(family));
                }
            }
        }
    }

    /// Has the kernel's chains go through kube-proxy's, the first time.
    fn jump(&self, iptables: &str) {
        let saved = self.run(&format!("{iptables}-save"), &[], "");
        if saved.contains("-j KUBE-SERVICES") {
            return;
        }
        for rule in [
            "-t nat -I PREROUTING -j KUBE-SERVICES",
            "-t nat -I OUTPUT -j KUBE-SERVICES",
            "-t nat -I POSTROUTING -j KUBE-POSTROUTING",
            "-t filter -I FORWARD -j KUBE-FORWARD",
            "-t filter -I FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
            "-t filter -I OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
        ] {
            self.run(iptables, &rule.split(' ').collect::<Vec<_>>(), "");
        }
    }

    /// Runs a program on the host with this input; what it prints.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let output = self.host.inside(|| {
            let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(stdin)
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}\n{input}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn iptables(family: &str) -> &'static str {
    if family == "ip" { "iptables" } else { "ip6tables" }
}

/// A set or map of nft with these elements; an empty one has no list of them.
fn elements(all: &[String]) -> String {
    if all.is_empty() { String::new() } else { format!("elements = {{ {} }}", all.join(", ")) }
}

/// The table of the mode `nftables`, which takes the place of the one that may be there.
fn table(family: &str, node: IpAddr, pods: &str, services: &[&Service]) -> String {
    let address = if family == "ip" { "ipv4_addr" } else { "ipv6_addr" };
    let key = |one: &Service| format!("{} . {} . {}", one.cluster.ip(), one.protocol, one.cluster.port());
    let (with, without): (Vec<&Service>, Vec<&Service>) = services.iter().partition(|one| one.endpoint.is_some());
    let mut cluster_ips: Vec<_> = services.iter().map(|one| one.cluster.ip().to_string()).collect();
    cluster_ips.dedup();
    let ips: Vec<_> = with.iter().map(|one| format!("{} : goto service-{}", key(one), one.name)).collect();
    let ports = with.iter().map(|one| format!("{} . {} : goto external-{}", one.protocol, one.node_port, one.name));
    let none: Vec<_> = without.iter().map(|one| format!("{} : goto reject-chain", key(one))).collect();
    let mut text = format!(
        "table {family} kube-proxy\ndelete table {family} kube-proxy\ntable {family} kube-proxy {{
        set cluster-ips {{ type {address}; {cluster_ips} }}
        set nodeport-ips {{ type {address}; elements = {{ {node} }} }}
        map service-ips {{ type {address} . inet_proto . inet_service : verdict; {ips} }}
        map service-nodeports {{ type inet_proto . inet_service : verdict; {ports} }}
        map no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict; {none} }}
        chain reject-chain {{ reject; }}
        chain mark-for-masquerade {{ mark set mark or {MARK}; }}
        chain masquerading {{
            mark and {MARK} == 0 return
            mark set mark xor {MARK}
            masquerade fully-random
        }}
        chain services {{
            {family} daddr . meta l4proto . th dport vmap @service-ips
            {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
        }}
        chain service-endpoints-check {{ {family} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
        chain cluster-ips-check {{ {family} daddr @cluster-ips reject; }}
        chain filter-forward {{
            type filter hook forward priority -110;
            ct state new jump service-endpoints-check
            ct state new jump cluster-ips-check
        }}
        chain filter-output {{
            type filter hook output priority -110;
            ct state new jump service-endpoints-check
        }}
        chain filter-output-post-dnat {{
            type filter hook output priority -90;
            ct state new jump cluster-ips-check
        }}
        chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
        chain nat-output {{ type nat hook output priority -100; jump services; }}
        chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n",
        cluster_ips = elements(&cluster_ips),
        ips = elements(&ips),
        ports = elements(&ports.collect::<Vec<_>>()),
        none = elements(&none),
    );
    for Service { name, protocol, cluster, endpoint, .. } in with {
        let (endpoint, ip, port) = (endpoint.unwrap(), cluster.ip(), cluster.port());
        write!(
            text,
            "chain endpoint-{name} {{
                {family} saddr {own} jump mark-for-masquerade
                meta l4proto {protocol} dnat to {endpoint}
            }}
            chain service-{name} {{
                {family} daddr {ip} {protocol} dport {port} {family} saddr != {pods} jump mark-for-masquerade
                numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}
            }}
            chain external-{name} {{
                jump mark-for-masquerade
                goto service-{name}
            }}\n",
            own = endpoint.ip(),
        )
        .unwrap();
    }
    text + "}\n"
}

/// The chains of the mode `iptables`, as `iptables-restore --noflush` takes them: those that are named are emptied.
fn chains(pods: &str, services: &[&Service]) -> String {
    let (with, without): (Vec<&Service>, Vec<&Service>) = services.iter().partition(|one| one.endpoint.is_some());
    let at = |one: &Service| {
        format!(
            "-d {} -p {protocol} -m {protocol} --dport {}",
            one.cluster.ip(),
            one.cluster.port(),
            protocol = one.protocol
        )
    };
    let mut filter = "*filter\n:KUBE-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n".to_owned();
    for one in without {
        writeln!(filter, "-A KUBE-SERVICES {} -j REJECT", at(one)).unwrap();
    }
    let forward = [
        "-m conntrack --ctstate INVALID -j DROP",
        &format!("-m mark --mark {MARK}/{MARK} -j ACCEPT"),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ];
    forward.iter().for_each(|rule| writeln!(filter, "-A KUBE-FORWARD {rule}").unwrap());
    let mut names = "*nat\n".to_owned();
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"] {
        writeln!(names, ":{chain} - [0:0]").unwrap();
    }
    let mut rules = format!(
        "-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n"
    );
    for one in with {
        let (endpoint, name, protocol) = (one.endpoint.unwrap(), one.name, one.protocol);
        for kind in ["EXT", "SVC", "SEP"] {
            writeln!(names, ":KUBE-{kind}-{name} - [0:0]").unwrap();
        }
        let (at, port) = (at(one), one.node_port);
        write!(
            rules,
            "-A KUBE-SERVICES {at} -m comment --comment \"default/{name} cluster IP\" -j KUBE-SVC-{name}
-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {port} -j KUBE-EXT-{name}
-A KUBE-EXT-{name} -j KUBE-MARK-MASQ
-A KUBE-EXT-{name} -j KUBE-SVC-{name}
-A KUBE-SVC-{name} ! -s {pods} {at} -j KUBE-MARK-MASQ
-A KUBE-SVC-{name} -j KUBE-SEP-{name}
-A KUBE-SEP-{name} -s {own} -j KUBE-MARK-MASQ
-A KUBE-SEP-{name} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}\n",
            own = endpoint.ip(),
        )
        .unwrap();
    }
    // The last one: node ports are for what no service's address takes.
    rules += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    format!("{filter}COMMIT\n{names}{rules}COMMIT\n")
}
