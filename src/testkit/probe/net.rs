//! Verbs on the network: a server of one page, a client of one request, and what listens.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{Done, argument};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn http(arguments: &[String]) -> Done {
    let port: u16 = argument(arguments, 0, "PORT")?.parse()?;
    let text = arguments.get(1).map_or("hello from the probe", String::as_str).to_owned();
    // The IPv6 wildcard takes IPv4 as well, where there is IPv6 at all.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    println!("listening on {port}");
    for stream in listener.incoming() {
        let (stream, text) = (stream?, text.clone());
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, &text) {
                eprintln!("answer: {error}");
            }
        });
    }
    Ok(0)
}

fn answer(stream: TcpStream, text: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    println!("{request} from {}", peer.ip());
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
}

pub(crate) fn get(arguments: &[String]) -> Done {
    let address = argument(arguments, 0, "HOST:PORT")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is no HTTP")?;
    print!("{body}");
    Ok(if head.split(' ').nth(1) == Some("200") { 0 } else { 1 })
}

pub(crate) fn listening(_: &[String]) -> Done {
    let mut ports = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // 0A is the state LISTEN.
            if fields.get(3) == Some(&"0A")
                && let Some((_, port)) = fields[1].rsplit_once(':')
            {
                ports.push(u16::from_str_radix(port, 16)?);
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        println!("{port}");
    }
    Ok(0)
}
