//! A throwaway PostgreSQL cluster, for the tests, the demo and the benchmarks.
//!
//! Each [`Cluster`] has a folder of its own with data, log and socket, and listens on that socket only, so any number
//! run side by side. PostgreSQL refuses to run as root; as root, the server's programs run as the user `postgres`.
//!
//! Nothing is left behind: the server is stopped and the folder removed when the cluster is dropped, when the process
//! panics, and on Ctrl-C, SIGTERM and SIGHUP (not on SIGKILL). The programs run in process groups of their own, so that
//! a Ctrl-C in the terminal reaches this process alone, which then ends them in order.
//!
//! Locking: whoever starts or stops a server holds `CHANGES` shared; the signal handler takes it exclusively and
//! keeps it, so it sees no half-started server and nobody else removes what it removes.

use std::fmt::Write as _;
use std::io::{Read, Seek, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use postgres::{Client, NoTls};

/// The user that runs the server when we are root.
const SERVER_USER: &str = "postgres";
/// Where clusters live. Not `TMPDIR`: a socket's path has 107 bytes at most, and the server's user must get there.
const PARENT_FOLDER: &str = "/tmp";
/// Names the socket in the cluster's folder; it never meets another cluster's.
const PORT: u16 = 5432;
const LOG_TAIL_LINES: usize = 30;
const CRASH_RESTART_TIMEOUT: Duration = Duration::from_secs(300);
/// What a signal leaves as exit status; ctrlc does not tell which signal it was.
const INTERRUPTED_EXIT_STATUS: i32 = 130;

/// Settings of every cluster: small, quick, and without regard for its data.
const BASE_SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("port", "5432"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("shared_buffers", "16MB"),
    ("max_connections", "40"),
    ("jit", "off"),
];

/// Held while a server is started or stopped.
static CHANGES: RwLock<()> = RwLock::new(());
/// What the signal handler has to stop and remove.
static LIVE: Mutex<Vec<Server>> = Mutex::new(Vec::new());
static SIGNALS: Once = Once::new();

/// A server and its folder.
pub struct Cluster {
    server: Server,
}

/// How to talk to a server's programs. Knows nothing about whether it runs.
#[derive(Clone)]
struct Server {
    programs: PathBuf,
    folder: PathBuf,
    /// User and group to run as, if not as ourselves.
    run_as: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a cluster and starts its server with these settings on top of `BASE_SETTINGS`.
    ///
    /// # Errors
    ///
    /// PostgreSQL's programs are missing or one of them fails; the error then ends with the server's log.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self> {
        SIGNALS.call_once(|| ctrlc::set_handler(clean_up_and_exit).expect("no other handler is installed"));
        let (cluster, started) = {
            let _changing = changing();
            let server = Server::in_new_folder()?;
            live().push(server.clone());
            let started = server.initialise(settings).and_then(|()| server.start());
            (Cluster { server }, started)
        };
        started.map(|()| cluster)
    }

    /// A hot standby of this server, which must write its log with `wal_level = 'replica'` and have a sender for it.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn standby(&self) -> Result<Self> {
        let _changing = changing();
        let server = Server::in_new_folder()?;
        live().push(server.clone());
        let standby = Cluster { server };
        standby.server.copy_of(&self.server).and_then(|()| standby.server.start()).map(|()| standby)
    }

    /// Ends the server's time as a standby.
    ///
    /// # Errors
    ///
    /// It was none.
    pub fn promote(&self) -> Result<()> {
        let mut pg_ctl = self.server.program("pg_ctl");
        run(pg_ctl.args(["promote", "--wait", "--silent", "--pgdata"]).arg(self.server.data()))
    }

    /// Connects to `database` as the superuser.
    ///
    /// # Errors
    ///
    /// The server refuses; the error then ends with its log.
    pub fn connect(&self, database: &str) -> Result<Client> {
        self.connect_as(SERVER_USER, database)
    }

    /// Connects to `database` as `role`.
    ///
    /// # Errors
    ///
    /// As [`Cluster::connect`].
    pub fn connect_as(&self, role: &str, database: &str) -> Result<Client> {
        let mut config = postgres::Config::new();
        config.host_path(&self.server.folder).port(PORT).user(role).dbname(database);
        config.connect(NoTls).with_context(|| format!("cannot connect as {role}{}", self.server.log_tail()))
    }

    /// One of PostgreSQL's client programs, told how to reach the server; it runs as ourselves.
    pub fn client_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.server.programs.join(name));
        command.env("PGHOST", &self.server.folder).env("PGPORT", PORT.to_string()).env("PGUSER", SERVER_USER);
        command
    }

    /// Stops the server and starts it on the same data.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn restart(&self, mode: StopMode) -> Result<()> {
        let _changing = changing();
        self.server.stop(mode)?;
        self.server.start()
    }

    /// Stops the server.
    ///
    /// # Errors
    ///
    /// It does not stop.
    pub fn stop(&self, mode: StopMode) -> Result<()> {
        let _changing = changing();
        self.server.stop(mode)
    }

    /// Starts the server that was stopped.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn start_again(&self) -> Result<()> {
        let _changing = changing();
        self.server.start()
    }

    /// The server's data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.server.data()
    }

    /// Changes settings, for the next start.
    ///
    /// # Errors
    ///
    /// The configuration file cannot be written.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.server.configure(settings.iter())
    }

    /// Sends `signal` (its name, as the shell's `kill` knows it) to a backend.
    ///
    /// # Errors
    ///
    /// There is no such process.
    pub fn signal(&self, backend: i32, signal: &str) -> Result<()> {
        // The shell's own, for there need not be a program of that name.
        run(self.server.shell().args(["-c", &format!("kill -s {signal} {backend}")]))
    }

    /// Kills a backend as a crash would, and waits until the postmaster has thrown all others out and started afresh.
    ///
    /// # Errors
    ///
    /// The server is not back in time.
    pub fn crash(&self, backend: i32) -> Result<()> {
        let starts = |log: String| log.matches("database system is ready to accept connections").count();
        let before = starts(self.log());
        self.signal(backend, "KILL")?;
        let deadline = Instant::now() + CRASH_RESTART_TIMEOUT;
        while starts(self.log()) == before {
            if Instant::now() > deadline {
                bail!("the server has not restarted after a crash{}", self.server.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Copies a library into the cluster's folder, where the server can load it whoever it runs as.
    ///
    /// # Errors
    ///
    /// The file cannot be copied.
    pub fn take_in(&self, library: &Path) -> Result<PathBuf> {
        let copy = self.server.folder.join(library.file_name().context("a file has a name")?);
        fs::copy(library, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.server.log()).unwrap_or_default()).into_owned()
    }
}

/// How a server is to stop.
#[derive(Clone, Copy, Debug)]
pub enum StopMode {
    /// Wait until everybody has gone, shut down cleanly.
    Smart,
    /// Disconnect everybody, shut down cleanly.
    Fast,
    /// Leave everything; recover at the next start.
    Immediate,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _changing = changing();
        self.server.remove();
        live().retain(|server| server.folder != self.server.folder);
    }
}

fn changing() -> RwLockReadGuard<'static, ()> {
    CHANGES.read().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> MutexGuard<'static, Vec<Server>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signal handler, on a thread of its own. Keeps the lock until the process is gone.
fn clean_up_and_exit() {
    let _alone = CHANGES.write().unwrap_or_else(PoisonError::into_inner);
    live().iter().for_each(Server::remove);
    std::process::exit(INTERRUPTED_EXIT_STATUS);
}

impl Server {
    fn in_new_folder() -> Result<Self> {
        let programs = programs()?;
        let run_as = server_user()?;
        let folder = tempfile::Builder::new().prefix("pg_shared_lru.").tempdir_in(PARENT_FOLDER)?;
        if let Some((user, group)) = run_as {
            chown(folder.path(), Some(user), Some(group))?;
        }
        Ok(Server { programs, folder: folder.keep(), run_as })
    }

    fn initialise(&self, settings: &[(&str, &str)]) -> Result<()> {
        let mut initdb = self.program("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--username",
            SERVER_USER,
            "--pgdata",
        ]);
        run(initdb.arg(self.data()))?;
        let folder = self.folder.to_string_lossy();
        let socket = ("unix_socket_directories", folder.as_ref());
        self.configure(BASE_SETTINGS.iter().chain(settings).chain([&socket]))
    }

    /// Takes over the data of a running server, and follows it.
    fn copy_of(&self, primary: &Server) -> Result<()> {
        let mut backup = self.program("pg_basebackup");
        backup.args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "--username", SERVER_USER]);
        backup.arg("--host").arg(&primary.folder).args(["--port", &PORT.to_string()]);
        run(backup.arg("--pgdata").arg(self.data()))?;
        self.configure([&("unix_socket_directories", self.folder.to_string_lossy().as_ref())].into_iter())
    }

    fn configure<'a>(&self, settings: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Result<()> {
        let mut lines = String::new();
        for (name, value) in settings {
            writeln!(lines, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        // Appended, so that the file stays the server user's.
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"))?;
        Ok(file.write_all(lines.as_bytes())?)
    }

    fn start(&self) -> Result<()> {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.args(["start", "--wait", "--silent", "--log"]).arg(self.log()).arg("--pgdata").arg(self.data());
        run(&mut pg_ctl).with_context(|| format!("the server does not start{}", self.log_tail()))
    }

    fn stop(&self, mode: StopMode) -> Result<()> {
        let mode = match mode {
            StopMode::Smart => "smart",
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.args(["stop", "--wait", "--silent", "--mode", mode, "--pgdata"]).arg(self.data());
        run(&mut pg_ctl).with_context(|| format!("the server does not stop{}", self.log_tail()))
    }

    /// Stops the server, if it runs, and removes the folder, if it is there.
    fn remove(&self) {
        let _ = self.stop(StopMode::Immediate);
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        if tail.is_empty() { String::new() } else { format!("\nserver log:\n{}", tail.join("\n")) }
    }

    /// One of the server's programs, to run as its user, with nothing of our environment that could sway it.
    fn program(&self, name: &str) -> Command {
        self.command(&self.programs.join(name))
    }

    fn shell(&self) -> Command {
        self.command(Path::new("/bin/sh"))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command.current_dir(&self.folder).process_group(0);
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    // The server that pg_ctl leaves behind inherits its output: a pipe would stay open, so a file takes it.
    let mut output = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let mut text = String::new();
        output.rewind()?;
        output.read_to_string(&mut text)?;
        bail!("{name} failed, {status}:\n{text}");
    }
    Ok(())
}

/// The folder of PostgreSQL's programs.
fn programs() -> Result<PathBuf> {
    Ok(PathBuf::from(ask_pg_config("--bindir")?))
}

/// The major version of PostgreSQL.
///
/// # Errors
///
/// There is no PostgreSQL.
pub fn major_version() -> Result<u32> {
    let version = ask_pg_config("--version")?;
    let digits = version.trim_start_matches("PostgreSQL ").split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("{version}: no version of PostgreSQL"))
}

/// The feature that builds an extension for this PostgreSQL.
///
/// # Errors
///
/// There is no PostgreSQL.
pub fn pg_feature() -> Result<String> {
    Ok(format!("pg{}", major_version()?))
}

/// What `pg_config` says: `PG_CONFIG`, else Debian's newest, else that on `PATH`.
fn ask_pg_config(option: &str) -> Result<String> {
    let mut debian = (14..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config")));
    let pg_config = match env::var_os("PG_CONFIG") {
        Some(path) => PathBuf::from(path),
        None => debian.find(|path| path.exists()).unwrap_or_else(|| PathBuf::from("pg_config")),
    };
    let output = Command::new(&pg_config).arg(option).output();
    let output = output.with_context(|| format!("cannot run {}: is PostgreSQL installed?", pg_config.display()))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// User and group for the server's programs; none if we may run them ourselves.
fn server_user() -> Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let id = |option| -> Result<u32> {
        let output = Command::new("id").args([option, SERVER_USER]).output()?;
        let text = String::from_utf8(output.stdout)?;
        text.trim()
            .parse()
            .with_context(|| format!("PostgreSQL refuses to run as root; there is no user {SERVER_USER}"))
    };
    Ok(Some((id("-u")?, id("-g")?)))
}
