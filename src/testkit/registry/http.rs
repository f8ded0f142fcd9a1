//! HTTP as far as the tiny registry speaks it, with all the ways to speak it badly.

use std::{
    io::{self, BufRead, Read, Write},
    thread,
};

use super::{Gate, TRICKLE};

pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn authorization(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.as_str())
    }

    /// The first byte that is wanted, if not all of it.
    pub(super) fn from(&self) -> Option<usize> {
        let (_, range) = self.headers.iter().find(|(name, _)| name == "range")?;
        range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) cut: Option<usize>,
    pub(super) stall: Option<(usize, Gate)>,
    pub(super) drip: Option<(usize, usize)>,
    pub(super) reset: Option<usize>,
    pub(super) trickles: bool,
    pub(super) flood: Option<(u64, bool)>,
}

/// Lets one stream be read through a buffer and written to directly.
pub(super) struct Both<T>(pub(super) T);

impl<T: Read> Read for Both<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

pub(super) fn read(connection: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // As it is asked by those who take it for a proxy.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned()),
        None => target,
    };
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        connection.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap_or(0);
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(Some(Request { method, target, headers, body }))
}

pub(super) fn write(connection: &mut impl Write, request: &Request, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
    match answer.flood {
        // Without a length the end of the connection is the body's.
        Some((_, false)) => {}
        Some((bytes, true)) => head.push_str(&format!("content-length: {bytes}\r\n")),
        None => head.push_str(&format!("content-length: {}\r\n", answer.body.len())),
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut whole = format!("{head}\r\n").into_bytes();
    if request.method != "HEAD" {
        match answer.flood {
            Some((bytes, _)) => return flood(connection, &whole, bytes),
            None => whole.extend_from_slice(&answer.body[..answer.cut.unwrap_or(usize::MAX).min(answer.body.len())]),
        }
    }
    if answer.trickles {
        for byte in whole {
            connection.write_all(&[byte])?;
            connection.flush()?;
            thread::sleep(TRICKLE);
        }
        return Ok(());
    }
    let sent = answer.reset.unwrap_or(usize::MAX).min(whole.len());
    let mut rest = &whole[..sent];
    if let Some((bytes, gate)) = &answer.stall {
        let first;
        (first, rest) = rest.split_at((head.len() + 2 + bytes).min(rest.len()));
        connection.write_all(first)?;
        connection.flush()?;
        gate.wait();
    }
    if let Some((bytes, drop)) = answer.drip {
        let (first, slow) = rest.split_at((head.len() + 2 + bytes).min(rest.len()));
        connection.write_all(first)?;
        for drop in slow.chunks(drop) {
            connection.flush()?;
            thread::sleep(TRICKLE);
            connection.write_all(drop)?;
        }
        return connection.flush();
    }
    connection.write_all(rest)?;
    connection.flush()
}

pub(super) fn flood(connection: &mut impl Write, head: &[u8], bytes: u64) -> io::Result<()> {
    const WAVE: [u8; 8 << 10] = [b' '; 8 << 10];
    connection.write_all(head)?;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(WAVE.len() as u64);
        connection.write_all(&WAVE[..part as usize])?;
        left -= part;
    }
    connection.flush()
}
