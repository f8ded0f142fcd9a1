//! Who reaches whom, and as whom: servers that answer with the address they see, and clients everywhere.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, PipeWriter, Read, Write, pipe},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testkit::patience;

use crate::host::{HOST, Host, Netns, OUTSIDE};

/// Ports of every server.
pub(crate) const TCP: u16 = 8080;
pub(crate) const UDP: u16 = 8081;

/// How long a client waits: a lost first packet is sent again after a second.
const WAITS: Duration = Duration::from_millis(2500);

/// A server in a namespace, for both protocols and both families, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// The thread ends when nobody holds this end any more.
    ends: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// One that answers with the address that it sees.
    pub(crate) fn new(netns: &Netns) -> Server {
        Server::of(netns, "")
    }

    /// One that says who it is before that.
    pub(crate) fn named(netns: &Netns, name: &str) -> Server {
        Server::of(netns, &format!("{name} sees "))
    }

    fn of(netns: &Netns, greeting: &str) -> Server {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (tcp, udp) = netns.inside(|| (TcpListener::bind(any(TCP)).unwrap(), UdpSocket::bind(any(UDP)).unwrap()));
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        let (end, ends) = pipe().unwrap();
        let greeting = greeting.to_owned();
        let thread = thread::spawn(move || {
            let answer = |peer: SocketAddr| format!("{greeting}{}", peer.ip().to_canonical());
            loop {
                let mut awaited = [tcp.as_fd(), udp.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                poll(&mut awaited, PollTimeout::NONE).unwrap();
                if awaited[2].any() == Some(true) {
                    return;
                }
                // Whoever asked may have gone again.
                if let Ok((mut stream, peer)) = tcp.accept() {
                    let _ = stream.write_all(answer(peer).as_bytes());
                }
                if let Ok((_, peer)) = udp.recv_from(&mut [0; 16]) {
                    let _ = udp.send_to(answer(peer).as_bytes(), peer);
                }
            }
        });
        Server { ends: Some(ends), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.ends.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The protocol of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// One attempt: what it is called, from where, to where.
pub(crate) struct Attempt<'a> {
    pub(crate) name: String,
    pub(crate) from: &'a Netns,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
}

/// The address that the server saw, or how it ended.
fn attempt(to: SocketAddr, protocol: Protocol) -> String {
    let answer = match protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&to, patience(WAITS)).and_then(|mut stream| {
            stream.set_read_timeout(Some(patience(WAITS)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        }),
        Protocol::Udp => ask_udp(to),
    };
    match answer {
        Ok(text) => format!("as {text}"),
        Err(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer".to_owned(),
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// Asks twice: nothing sends a lost datagram again.
fn ask_udp(to: SocketAddr) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience(WAITS) / 2))?;
    let mut answer = [0; 64];
    let mut ask = || {
        socket.send(b"who")?;
        loop {
            match socket.recv(&mut answer) {
                // A signal, as of whoever stops the machine for a moment: the wait has no answer yet.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => return Ok(String::from_utf8_lossy(&answer[..received?]).into_owned()),
            }
        }
    };
    ask().or_else(|_: std::io::Error| ask())
}

/// A pod to be reached, by its addresses.
pub(crate) struct Pod<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) ips: Vec<IpAddr>,
}

/// A port of the host that leads to the first pod.
#[derive(Debug, Clone)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// How every attempt ended, by its name. The servers run as long as it takes.
pub(crate) fn table(
    host: &Host,
    a: &Pod<'_>,
    b: &Pod<'_>,
    gateways: &[IpAddr],
    ports: &[HostPort],
) -> BTreeMap<String, String> {
    let places = [&host.netns, &host.outside, a.netns, b.netns];
    let servers: Vec<_> = places.into_iter().map(Server::new).collect();
    let family = |ip: &IpAddr| if ip.is_ipv4() { 4 } else { 6 };
    let mut attempts = Vec::new();
    let mut tcp = |name: String, from, ip: IpAddr| {
        let (name, to) = (format!("{name} by tcp{}", family(&ip)), SocketAddr::new(ip, TCP));
        attempts.push(Attempt { name, from, to, protocol: Protocol::Tcp });
    };
    for ip in &a.ips {
        tcp("host to A".into(), &host.netns, *ip);
        tcp("B to A".into(), b.netns, *ip);
        tcp("outside to A".into(), &host.outside, *ip);
        tcp("A to itself".into(), a.netns, *ip);
    }
    for ip in &b.ips {
        tcp("A to B".into(), a.netns, *ip);
    }
    for gateway in gateways {
        tcp("A to its gateway".into(), a.netns, *gateway);
    }
    for text in OUTSIDE {
        tcp("A to outside".into(), a.netns, text.parse().unwrap());
    }
    for text in HOST {
        tcp("A to the host's uplink".into(), a.netns, text.parse().unwrap());
    }
    attempts.extend(to_ports(host, &[("A", a.netns), ("B", b.netns)], ports));
    let table = outcomes(&attempts);
    drop(servers);
    table
}

/// How attempts at the host ports end when the pod that had them is gone: nobody serves them, whatever pod is left.
pub(crate) fn ports_of_nobody(host: &Host, b: &Netns, ports: &[HostPort]) -> BTreeMap<String, String> {
    outcomes(&to_ports(host, &[("B", b)], ports))
}

/// How a pod fares with a hardware address that nobody gave it.
pub(crate) fn spoofed(host: &Host, a: &Netns, gateways: &[IpAddr]) -> BTreeMap<String, String> {
    let links: serde_json::Value = serde_json::from_str(&a.ip("-j link show eth0")).unwrap();
    let own = links[0]["address"].as_str().unwrap();
    let server = Server::new(&host.netns);
    let set = |address: &str| {
        a.ip(&format!("link set eth0 address {address}"));
        a.ip("neigh flush all");
        host.netns.ip("neigh flush all");
    };
    set("02:5a:5a:5a:5a:5a");
    let outcomes = gateways.iter().map(|gateway| {
        let outcome = a.inside(|| attempt(SocketAddr::new(*gateway, TCP), Protocol::Tcp));
        ("A under another hardware address to its gateway".to_owned(), outcome)
    });
    let outcomes = outcomes.collect();
    set(own);
    drop(server);
    outcomes
}

/// From everywhere to every host port.
fn to_ports<'a>(host: &'a Host, pods: &[(&str, &'a Netns)], ports: &[HostPort]) -> Vec<Attempt<'a>> {
    let mut attempts = Vec::new();
    for port in ports {
        for (text, local) in [(HOST[0], "127.0.0.1"), (HOST[1], "::1")] {
            let pods = pods.iter().map(|&(name, netns)| (name, netns, text));
            let hosts = [("outside", &host.outside, text), ("host", &host.netns, text)];
            let loopback = [("host by loopback", &host.netns, local)];
            for (who, from, to) in hosts.into_iter().chain(pods).chain(loopback) {
                let to = SocketAddr::new(to.parse().unwrap(), port.port);
                let kind = if port.protocol == Protocol::Tcp { "tcp" } else { "udp" };
                let name = format!("{who} to host port {} by {kind}{}", port.port, if to.is_ipv4() { 4 } else { 6 });
                attempts.push(Attempt { name, from, to, protocol: port.protocol });
            }
        }
    }
    attempts
}

/// Makes every attempt and panics with each that ended otherwise than its partner says.
pub(crate) fn expect(when: &str, attempts: Vec<(Attempt<'_>, String)>) {
    let (attempts, expected): (Vec<_>, Vec<_>) = attempts.into_iter().unzip();
    let found = outcomes(&attempts);
    assert_eq!(found.len(), attempts.len(), "two attempts of one name");
    let differ = |(one, expected): (&Attempt<'_>, String)| {
        let found = &found[&one.name];
        (*found != expected).then(|| format!("{}: {found:?}, not {expected:?}", one.name))
    };
    let wrong: Vec<_> = attempts.iter().zip(expected).filter_map(differ).collect();
    assert!(wrong.is_empty(), "{when}: {wrong:#?}");
}

/// Makes every attempt and panics with each that was answered.
pub(crate) fn expect_no_answer(when: &str, attempts: Vec<(Attempt<'_>, String)>) {
    let (attempts, _): (Vec<_>, Vec<_>) = attempts.into_iter().unzip();
    let answered: Vec<_> = outcomes(&attempts).into_iter().filter(|(_, outcome)| outcome.starts_with("as ")).collect();
    assert!(answered.is_empty(), "{when}: {answered:#?}");
}

/// Makes every attempt, all at once.
fn outcomes(attempts: &[Attempt<'_>]) -> BTreeMap<String, String> {
    thread::scope(|scope| {
        let running: Vec<_> = attempts
            .iter()
            .map(|one| (one.name.clone(), scope.spawn(|| one.from.inside(|| attempt(one.to, one.protocol)))))
            .collect();
        running.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect()
    })
}
