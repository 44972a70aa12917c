//! The command line: one file per subcommand.

mod acknowledge;
mod call;
mod cancel;
mod check_config;
mod daemon;
mod doctor;
pub mod exit;
mod list;
mod notify;
mod output;
mod reload;
mod run;
mod schedule;
mod show;
mod status;

use std::{
    ffi::OsString,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::{
    daemon::table::{self, Ground, Loaded, Table},
    domain::failure::{Class, Failure},
    postgres::service::Environment,
    sys::{
        clock::{Clock as _, SystemClock},
        process::scarce,
    },
};

use exit::Exit;

/// Where the configuration lies unless `--config` says otherwise.
const DEFAULT_CONFIG: &str = "/etc/pgkeep/pgkeep.toml";

/// Keeps PostgreSQL clusters backed up, restorable and healthy.
#[derive(Debug, Parser)]
#[command(name = "pgkeep", version, max_term_width = 100)]
struct Arguments {
    /// The configuration file; conf.d/*.toml beside it is read too.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print facts as JSON, in the shapes of docs/CLI.md.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground until SIGTERM: what the systemd unit starts.
    Daemon,
    /// Read the configuration, report every error in it, and print the next runs.
    CheckConfig,
    /// Look at servers, roles, repositories and this host, and say what is wrong and what to do.
    Doctor(doctor::Arguments),
    /// Run a job now and wait for its end, through the daemon where one is up.
    Run(run::Arguments),
    /// Stop the run of a job that is under way; it ends in its own time.
    Cancel(cancel::Arguments),
    /// Show what the daemon does and how each job last ended.
    Status,
    /// List the backups in the repositories.
    List(list::Arguments),
    /// Show one backup with its manifest, in every repository that has it.
    Show(show::Arguments),
    /// Say that suspicious backups are as they should be, in every repository that has them.
    Acknowledge(acknowledge::Arguments),
    /// Send a test to a receiver of notifications.
    Notify(notify::Arguments),
    /// Have the daemon read its configuration again, and wait for the verdict.
    Reload,
    /// Look at schedules.
    #[command(subcommand)]
    Schedule(schedule::Command),
}

/// Parses the arguments, runs the command and prints its error, if any. The result is the
/// process's exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            if usage {
                output::say(&error.render().to_string());
                return Exit::Usage;
            }
            // A closed standard output is not worth a word.
            drop(error.print());
            return Exit::Done;
        }
    };
    let cli = Cli { config: arguments.config, json: arguments.json, clock: SystemClock::new() };
    let result = match arguments.command {
        Command::Daemon => daemon::daemon(&cli),
        Command::CheckConfig => check_config::check_config(&cli),
        Command::Doctor(arguments) => doctor::doctor(&cli, &arguments),
        Command::Run(arguments) => run::run(&cli, &arguments),
        Command::Cancel(arguments) => cancel::cancel(&cli, &arguments),
        Command::Status => status::status(&cli),
        Command::List(arguments) => list::list(&cli, &arguments),
        Command::Show(arguments) => show::show(&cli, &arguments),
        Command::Acknowledge(arguments) => acknowledge::acknowledge(&cli, &arguments),
        Command::Notify(arguments) => notify::notify(&cli, &arguments),
        Command::Reload => reload::reload(&cli),
        Command::Schedule(command) => schedule::schedule(&cli, &command),
    };
    result.unwrap_or_else(Stop::print)
}

/// What every command is handed.
#[derive(Debug)]
struct Cli {
    config: PathBuf,
    json: bool,
    clock: Arc<SystemClock>,
}

/// Why a command stopped early, with its exit code.
#[derive(Debug)]
enum Stop {
    Failed(Exit, Failure),
    /// The configuration has errors; the text shows them all.
    Configuration(String),
}

impl Stop {
    fn failed(failure: Failure) -> Self {
        Self::Failed(Exit::Failed, failure)
    }

    fn print(self) -> Exit {
        match self {
            Self::Failed(exit, failure) => {
                output::say_failure("pgkeep: error", &failure);
                exit
            }
            Self::Configuration(text) => {
                output::say_styled(&text);
                Exit::Configuration
            }
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::failed(failure)
    }
}

type Outcome = Result<Exit, Stop>;

impl Cli {
    /// Reads the configuration and builds everything, without using any of it.
    fn load(&self) -> Loaded {
        table::load(&self.config, &|name| std::env::var(name).ok(), &self.ground())
    }

    /// What tables are built on.
    fn ground(&self) -> Ground {
        Ground {
            now: self.clock.now().wall,
            clock: self.clock.clone(),
            gate: Arc::default(),
            toolbox: Arc::default(),
            environment: Environment::of_process(),
        }
    }

    /// The table, or all errors of the configuration.
    fn table(&self) -> Result<Table, Stop> {
        let mut loaded = self.load();
        match loaded.table.take() {
            Some(table) => Ok(table),
            None => Err(Stop::Configuration(loaded.render())),
        }
    }
}

/// The runtime of a command that needs one. The daemon's bytes move on threads of their own, so
/// that two workers suffice.
fn runtime() -> Result<Running, Stop> {
    const WORKERS: usize = 2;
    let fail = |error| {
        Stop::failed(Failure::from_error(Class::State, "start the runtime", &scarce(error)))
    };
    // It panics where one of its first threads cannot be started.
    prove_threads(WORKERS + 1).map_err(fail)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        // Where no thread is left, those that there are have to do.
        .thread_keep_alive(Duration::from_hours(24))
        .enable_all()
        .thread_name("pgkeep")
        .build()
        .map(|runtime| {
            // Work that blocks waits for a thread where there is one, and panics where there never was.
            drop(runtime.spawn_blocking(|| {}));
            Running { handle: runtime.handle().clone(), runtime: Some(runtime) }
        })
        .map_err(fail)
}

/// Whether so many threads can be had at once.
fn prove_threads(count: usize) -> io::Result<()> {
    let threads = || fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let before = threads();
    let gate = Mutex::new(());
    let proof = thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let all =
            (0..count).try_for_each(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop));
        drop(closed);
        all
    });
    // The kernel counts each for a moment longer than it can be waited for.
    for _ in 0..100 {
        if threads() <= before {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    proof
}

/// A runtime that ends with its command: a filesystem that hangs, or a name that nobody looks up, is not
/// waited for.
#[derive(Debug)]
struct Running {
    handle: tokio::runtime::Handle,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    /// Runs the work to its end.
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
