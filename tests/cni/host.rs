//! A machine's network for one half of a comparison: namespaces of its own, with something to reach behind its uplink.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Command, Output},
};

use nix::sched::{CloneFlags, setns, unshare};

/// The link between host and outside, on both of its ends.
pub(crate) const UPLINK: &str = "uplink";
/// The host's addresses there, and those outside.
pub(crate) const HOST: [&str; 2] = ["192.168.177.1", "fd77:177::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.168.177.2", "fd77:177::2"];

/// A network namespace that lives as long as this does, and as what others make of its path.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    /// One with nothing but a loopback that is down.
    pub(crate) fn new() -> Netns {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Netns(made.join().unwrap())
    }

    /// The one that this path leads to.
    pub(crate) fn at(path: &str) -> Netns {
        Netns(File::open(path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// A path that leads to it while this process lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Does something inside; processes that are started there are inside too.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let is = || fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("enter {:?}: {error}", is()));
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Standard output of `ip` inside, which has to succeed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(&format!("ip {arguments}"))
    }

    /// The same of any command.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// How a command ends inside: a program, and its arguments after spaces.
    pub(crate) fn try_run(&self, command: &str) -> Output {
        let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let mut command = Command::new(program);
        command.args(arguments.split(' ').filter(|argument| !argument.is_empty()));
        self.inside(move || command.output()).unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Sets a kernel parameter below `/proc/sys/net`.
    pub(crate) fn set(&self, parameter: &str, value: &str) {
        self.inside(|| fs::write(format!("/proc/sys/net/{parameter}"), value).expect(parameter));
    }
}

/// A host with an uplink, and who is behind it.
#[derive(Debug)]
pub(crate) struct Host {
    /// What pods are attached to.
    pub(crate) netns: Netns,
    /// Another machine, which sends everything back through the host.
    pub(crate) outside: Netns,
}

impl Host {
    pub(crate) fn new() -> Host {
        let host = Host { netns: Netns::new(), outside: Netns::new() };
        // A new namespace has these from the machine's, where other tests may have changed them.
        for (netns, own) in [(&host.netns, HOST), (&host.outside, OUTSIDE)] {
            netns.set("ipv4/ip_forward", "0");
            netns.set("ipv4/conf/all/route_localnet", "0");
            netns.set("ipv4/conf/default/route_localnet", "0");
            netns.set("ipv6/conf/all/forwarding", "0");
            netns.ip("link set lo up");
            if own == HOST {
                let outside = host.outside.path();
                netns.ip(&format!("link add {UPLINK} type veth peer name {UPLINK} netns {}", outside.display()));
            }
            netns.ip(&format!("address add {}/24 dev {UPLINK}", own[0]));
            netns.ip(&format!("address add {}/64 dev {UPLINK} nodad", own[1]));
            netns.ip(&format!("link set {UPLINK} up"));
        }
        for (netns, other) in [(&host.netns, OUTSIDE), (&host.outside, HOST)] {
            netns.ip(&format!("route add default via {}", other[0]));
            netns.ip(&format!("-6 route add default via {}", other[1]));
        }
        host
    }
}
