//! SCTP by packets made by hand: a kernel need not speak it to translate it.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use model::Protocol;
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto, setsockopt,
        socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike},
};

use crate::{
    hosts::{close, on_a_host_of_its_own, open},
    node::{inside, pod_id},
    ports::{HOST, HOST_V6, end, give_address, port, run},
};

/// The protocol's number in packets.
const SCTP: u8 = 132;
/// Chunks that begin an association and answer that (RFC 9260, 3.3.2 and 3.3.3).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A packet with one chunk, behind a header of IP.
fn packet(from: SocketAddr, to: SocketAddr, chunk: u8, verification_tag: u32) -> Vec<u8> {
    let mut sctp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    sctp.extend(verification_tag.to_be_bytes());
    sctp.extend([0; 4]);
    // Kind, flags, length; then the sender's tag, its window, its streams and its first number.
    sctp.extend([chunk, 0, 0, 20]);
    sctp.extend(7_u32.to_be_bytes());
    sctp.extend(65536_u32.to_be_bytes());
    sctp.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&checksum);
    let length = u16::try_from(sctp.len()).unwrap();
    let mut ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in the length, the number and the checksum.
            let mut head = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, SCTP, 0, 0];
            head.extend([from.octets(), to.octets()].concat());
            head
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(length.to_be_bytes());
            head.extend([SCTP, 64]);
            head.extend([from.octets(), to.octets()].concat());
            head
        }
        _ => panic!("two families"),
    };
    ip.extend(sctp);
    ip
}

/// Castagnoli's, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn send(from: &OwnedFd, to: SocketAddr, packet: Vec<u8>) {
    inside(from, move || {
        let raw = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
        let sent = match to {
            SocketAddr::V4(to) => {
                let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
                sendto(raw(AddressFamily::Inet).as_raw_fd(), &packet, &to, MsgFlags::empty())
            }
            SocketAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(*to.ip(), 0, 0, 0));
                sendto(raw(AddressFamily::Inet6).as_raw_fd(), &packet, &to, MsgFlags::empty())
            }
        };
        assert_eq!(sent, Ok(packet.len()));
    });
}

/// Hears every packet of a pod.
fn ear(netns: &OwnedFd) -> OwnedFd {
    let all =
        || socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    let ear = inside(netns, all);
    setsockopt(&ear, ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    ear
}

/// The next packet of SCTP to that end, as where it comes from and what it is.
fn hears(ear: &OwnedFd, to: SocketAddr) -> (SocketAddr, u8) {
    let mut buffer = [0; 2048];
    loop {
        let length = recv(ear.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("it comes soon");
        let packet = &buffer[..length];
        let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        let (protocol, source, target, head) = match packet[0] >> 4 {
            4 => (packet[9], v4(12), v4(16), 20),
            6 => (packet[6], v6(8), v6(24), 40),
            _ => continue,
        };
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        if protocol == SCTP && SocketAddr::new(target, port(head + 2)) == to {
            return (SocketAddr::new(source, port(head)), packet[head + 12]);
        }
    }
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn an_association_begins_by_a_host_port() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_dir, config, network) = open("ports-sctp", |_| {});
        let (one, other) = (pod_id("ports-sctp", 1), pod_id("ports-sctp", 2));
        let server = run(&network, &one, &[port(Protocol::Sctp, 3868, None)]).await.unwrap();
        let client = run(&network, &other, &[]).await.unwrap();
        for (family, host) in [HOST, HOST_V6].into_iter().enumerate() {
            let (to, from) = (SocketAddr::new(server.1.ips[family], 8080), SocketAddr::new(client.1.ips[family], 4000));
            let host = SocketAddr::new(host.parse().unwrap(), 3868);
            let (at_server, at_client) = (ear(&server.0.fd), ear(&client.0.fd));
            send(&client.0.fd, host, packet(from, host, INIT, 0));
            let (source, chunk) = hears(&at_server, to);
            assert_eq!(chunk, INIT);
            assert_ne!(source.ip(), from.ip(), "from beside the pod it comes back by the host");
            send(&server.0.fd, source, packet(to, source, INIT_ACK, 7));
            assert_eq!(hears(&at_client, from), (host, INIT_ACK), "the answer comes from the host");
        }
        end(&network, &one, server).await;
        end(&network, &other, client).await;
        network.dismantle().await.unwrap();
        close(&config);
    });
}
