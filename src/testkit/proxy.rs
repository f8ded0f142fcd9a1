//! A tiny proxy on loopback: whatever it is asked to connect to, it connects to one place.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A running proxy. Its threads end with the process.
#[derive(Debug)]
pub struct TinyProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TinyProxy {
    /// One that leads to this host and port.
    pub fn start(to: &str) -> TinyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, to) = (Arc::<Mutex<Vec<String>>>::default(), to.to_owned());
        let theirs = asked.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (asked, to) = (theirs.clone(), to.clone());
                // Whoever breaks off is not missed.
                thread::spawn(move || serve(connection, &to, &asked));
            }
        });
        TinyProxy { address, asked }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked so far: the method, the place, the credentials.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut connection: TcpStream, to: &str, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut told: Vec<String> = line.split_whitespace().take(2).map(str::to_owned).collect();
    loop {
        let mut header = String::new();
        head.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("proxy-authorization") {
            told.push(value.trim().to_owned());
        }
    }
    asked.lock().unwrap().push(told.join(" "));
    let mut there = TcpStream::connect(to)?;
    connection.write_all(b"HTTP/1.1 200 connected\r\n\r\n")?;
    let (mut back, mut from) = (connection.try_clone()?, there.try_clone()?);
    let answers = thread::spawn(move || io::copy(&mut from, &mut back));
    // What the reader has taken already belongs to the other end.
    io::copy(&mut head, &mut there)?;
    let _ = there.shutdown(std::net::Shutdown::Write);
    let _ = answers.join();
    Ok(())
}
