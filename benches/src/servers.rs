//! memcached and Redis on Unix sockets, to compare with.
//!
//! Purpose: [`Server`] starts one in a folder of its own and stops it; [`Connection`] speaks the two commands that a
//! benchmark needs of its protocol, one request at a time and without pipelining.
//!
//! The clients are written here and not taken from a crate, because a crate's pools, retries and copies of replies would
//! count against the server: this is one write and, as a rule, one read of the socket a request, which no client can do
//! with less. Keys must be printable and without spaces for memcached's text protocol.
//!
//! A server dies with the process that started it.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ServerKind {
    /// memcached, text protocol.
    Memcached,
    /// Redis, without persistence, evicting by (sampled) LRU.
    Redis,
}

impl ServerKind {
    pub fn name(self) -> &'static str {
        match self {
            ServerKind::Memcached => "memcached",
            ServerKind::Redis => "redis",
        }
    }

    fn program(self) -> &'static str {
        match self {
            ServerKind::Memcached => "memcached",
            ServerKind::Redis => "redis-server",
        }
    }
}

/// A running server.
pub struct Server {
    kind: ServerKind,
    process: Child,
    socket: PathBuf,
    /// Removed with the server.
    _folder: TempDir,
}

/// memcached on a port of this machine, for clients that know no Unix sockets.
pub struct PortServer {
    process: Child,
    port: u16,
}

impl PortServer {
    /// Starts memcached with at most about `bytes`; `None` if it is not installed.
    ///
    /// # Errors
    /// It does not start, or nobody answers at its port.
    pub fn start(bytes: u64) -> Result<Option<PortServer>, String> {
        let fault = |error: std::io::Error| format!("memcached: {error}");
        // The system knows a free port; it is free again when the listener is dropped.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(fault)?.port();
        let mut command = Command::new(ServerKind::Memcached.program());
        command.args(["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string(), "-u", &user()]);
        command.args(["-m", &(bytes >> 20).max(1).to_string()]);
        let Some(process) = spawn(&mut command).map_err(fault)? else {
            return Ok(None);
        };
        let server = PortServer { process, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > START_TIMEOUT {
                return Err(format!("memcached: does not answer after {} s", START_TIMEOUT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a program that dies with this process; `None` if there is none of that name.
fn spawn(command: &mut Command) -> std::io::Result<Option<Child>> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    match command.spawn() {
        Ok(process) => Ok(Some(process)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Server {
    /// Starts a server that uses at most about `bytes`; `None` if its program is not installed.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn start(kind: ServerKind, bytes: u64) -> Result<Option<Server>, String> {
        let fault = |what: String| format!("{}: {what}", kind.program());
        let folder = TempDir::new().map_err(|error| fault(error.to_string()))?;
        let socket = folder.path().join("socket");
        let mut command = Command::new(kind.program());
        match kind {
            ServerKind::Memcached => command
                .arg("-s")
                .arg(&socket)
                .args(["-m", &(bytes >> 20).max(1).to_string(), "-u", &user()])
                .args(["-I", &format!("{}", (bytes / 4).clamp(1 << 20, 64 << 20))]),
            ServerKind::Redis => command
                .args(["--port", "0", "--save", "", "--appendonly", "no", "--maxmemory-policy", "allkeys-lru"])
                .args(["--maxmemory", &bytes.to_string()])
                .arg("--unixsocket")
                .arg(&socket)
                .arg("--dir")
                .arg(folder.path()),
        };
        let Some(process) = spawn(&mut command).map_err(|error| fault(error.to_string()))? else {
            return Ok(None);
        };
        let mut server = Server { kind, process, socket, _folder: folder };
        let started = Instant::now();
        while server.connect().is_err() {
            if let Ok(Some(status)) = server.process.try_wait() {
                return Err(fault(format!("ended at once: {status}")));
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(fault(format!("does not answer after {} s", START_TIMEOUT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// A connection of the caller's own.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> Result<Connection, String> {
        let stream = UnixStream::connect(&self.socket).map_err(|error| format!("{}: {error}", self.kind.name()))?;
        Ok(Connection { kind: self.kind, stream, request: Vec::new(), reply: Vec::new(), filled: 0 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// memcached wants to be told when it may run as root.
fn user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "root".to_owned())
}

/// A connection to a server.
pub struct Connection {
    kind: ServerKind,
    stream: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
    /// Bytes of `reply` that have been read.
    filled: usize,
}

impl Connection {
    /// The value of `key`, where the reply lies.
    ///
    /// # Errors
    /// The connection broke, or the reply is none of the protocol's.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, String> {
        self.request.clear();
        match self.kind {
            ServerKind::Memcached => {
                self.request.extend_from_slice(b"get ");
                self.request.extend_from_slice(key);
                self.request.extend_from_slice(b"\r\n");
            }
            ServerKind::Redis => {
                self.request.extend_from_slice(format!("*2\r\n$3\r\nGET\r\n${}\r\n", key.len()).as_bytes());
                self.request.extend_from_slice(key);
                self.request.extend_from_slice(b"\r\n");
            }
        }
        self.send()?;
        let head = self.line()?;
        let (value_bytes, trailer) = match self.kind {
            ServerKind::Memcached if head == b"END" => return Ok(None),
            ServerKind::Memcached => (number_after_last_space(&head), &b"\r\nEND\r\n"[..]),
            ServerKind::Redis if head == b"$-1" => return Ok(None),
            ServerKind::Redis => (head.strip_prefix(b"$").and_then(number), &b"\r\n"[..]),
        };
        let value_bytes = value_bytes.ok_or_else(|| self.unexpected(&head))?;
        let value_at = head.len() + 2;
        self.read_until(value_at + value_bytes + trailer.len())?;
        Ok(Some(&self.reply[value_at..value_at + value_bytes]))
    }

    /// Stores a value. True if the server took it: one may refuse what is too large for it.
    ///
    /// # Errors
    /// The connection broke.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        self.request.clear();
        match self.kind {
            ServerKind::Memcached => self.compose_set(key, value, 0),
            ServerKind::Redis => {
                self.request.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n${}\r\n", key.len()).as_bytes());
                self.request.extend_from_slice(key);
                self.request.extend_from_slice(format!("\r\n${}\r\n", value.len()).as_bytes());
                self.request.extend_from_slice(value);
                self.request.extend_from_slice(b"\r\n");
            }
        }
        self.stored()
    }

    /// Stores a value for some seconds. True if the server took it.
    ///
    /// # Errors
    /// The connection broke, or the server is not memcached.
    pub fn put_for(&mut self, key: &[u8], value: &[u8], seconds: u32) -> Result<bool, String> {
        if self.kind != ServerKind::Memcached {
            return Err(format!("{}: no values that expire", self.kind.name()));
        }
        self.request.clear();
        self.compose_set(key, value, seconds);
        self.stored()
    }

    /// memcached's `set`; it knows whole seconds, and 0 for no end.
    fn compose_set(&mut self, key: &[u8], value: &[u8], seconds: u32) {
        self.request.extend_from_slice(b"set ");
        self.request.extend_from_slice(key);
        self.request.extend_from_slice(format!(" 0 {seconds} {}\r\n", value.len()).as_bytes());
        self.request.extend_from_slice(value);
        self.request.extend_from_slice(b"\r\n");
    }

    fn stored(&mut self) -> Result<bool, String> {
        self.send()?;
        let reply = self.line()?;
        Ok(reply == b"STORED" || reply == b"+OK")
    }

    /// A number from memcached's statistics.
    ///
    /// # Errors
    /// The connection broke, or the server is not memcached.
    pub fn statistic(&mut self, name: &str) -> Result<Option<u64>, String> {
        self.request.clear();
        self.request.extend_from_slice(b"stats\r\n");
        self.send()?;
        while !self.reply[..self.filled].ends_with(b"END\r\n") {
            self.read_until(self.filled + 1)?;
        }
        let text = String::from_utf8_lossy(&self.reply[..self.filled]).into_owned();
        let wanted = format!("STAT {name} ");
        Ok(text.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok()))
    }

    fn send(&mut self) -> Result<(), String> {
        self.filled = 0;
        self.stream.write_all(&self.request).map_err(|error| format!("{}: {error}", self.kind.name()))
    }

    /// The reply's first line, without its end.
    fn line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.reply[..self.filled].iter().position(|byte| *byte == b'\n') {
                return Ok(self.reply[..end].trim_ascii_end().to_vec());
            }
            self.read_until(self.filled + 1)?;
        }
    }

    fn read_until(&mut self, bytes: usize) -> Result<(), String> {
        while self.filled < bytes {
            if self.reply.len() < bytes.max(self.filled + 4096) {
                self.reply.resize(bytes.max(self.filled + 4096), 0);
            }
            match self.stream.read(&mut self.reply[self.filled..]) {
                Ok(0) => return Err(format!("{}: closed the connection", self.kind.name())),
                Ok(count) => self.filled += count,
                Err(error) => return Err(format!("{}: {error}", self.kind.name())),
            }
        }
        Ok(())
    }

    fn unexpected(&self, head: &[u8]) -> String {
        format!("{}: unexpected reply {:?}", self.kind.name(), String::from_utf8_lossy(head))
    }
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn number_after_last_space(line: &[u8]) -> Option<usize> {
    number(line.rsplit(|byte| *byte == b' ').next()?)
}
