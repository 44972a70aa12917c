//! The one thing that goes wrong in a round.

use std::{fs, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    contents::Contents,
    dice::Dice,
    world::{CLOUD, Job, Ran, Running, VAULT, World, draw_job, small_jobs},
};
use crate::harness::{
    chaos::Fault as Network,
    liar::Fault,
    wait::{PATIENCE, eventually},
};

/// When pgkeep is told to die.
#[derive(Debug, Clone)]
pub(super) enum Moment {
    /// While pg_dump stands still at a thousandth of its output.
    AtStop(u32),
    /// When so many files lie in the repositories, hidden ones and those of the round before included.
    Files(usize),
    /// So many milliseconds after its start.
    After(u64),
}

/// See the module's head.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    Nothing,
    /// pg_dump does this.
    Program(Fault),
    /// pg_dump hangs; the run has a stall limit.
    Stall(u32),
    /// pgkeep gets this signal.
    Signal(Signal, Moment),
    FullDisk,
    /// PostgreSQL crashes after so many bytes of the dump, and comes up again.
    Crash(u32),
    /// SQL between the snapshot and pg_dump's first look.
    Early(String),
    /// SQL while pg_dump holds its locks.
    During(String),
    /// The way to the bucket.
    Network(Network, NetworkRule),
}

/// Which requests are hit.
#[derive(Debug, Clone, Copy)]
pub(super) enum NetworkRule {
    Percent(u64),
    /// The next so many of this method.
    Next(u32, &'static str),
}

/// How many sorts of trouble there are: round after round draws the next.
pub(super) const SORTS: u64 = 14;

impl Trouble {
    /// Draws one of the given sort, and the job that has it.
    pub(super) fn draw(
        sort: u64,
        dice: &mut Dice,
        world: &World,
        contents: &Contents,
    ) -> (Self, Job) {
        let mut job = draw_job(dice);
        let trouble = match sort {
            0 => Self::Nothing,
            1 => Self::Program(Fault::Kill(dice.small(1000))),
            2 => Self::Program(Fault::Cut(dice.small(1000), 0)),
            3 => Self::Program(Self::lie(dice)),
            4 => Self::Program(Self::flip(dice, world, contents)),
            5 => Self::Signal(Signal::KILL, Self::moment(dice)),
            6 => Self::Signal(*dice.pick(&[Signal::TERM, Signal::INT]), Self::moment(dice)),
            7 if world.is_small_mounted => {
                job = dice.pick(&small_jobs()).clone();
                Self::FullDisk
            }
            8 => Self::Crash(dice.small(100_000)),
            9 => Self::Early(contents.change_definitions(dice)),
            10 => Self::During(contents.change_definitions(dice)),
            11 => Self::Early(contents.change_rows(dice)),
            12 if dice.percent(10) => Self::Stall(dice.small(999)),
            _ => {
                while !job.repositories.iter().any(|it| [CLOUD, VAULT].contains(it)) {
                    job = draw_job(dice);
                }
                let (fault, rule) = Self::network(dice);
                Self::Network(fault, rule)
            }
        };
        (trouble, job)
    }

    fn lie(dice: &mut Dice) -> Fault {
        let (at, bytes) = (dice.small(1000), dice.small(3000));
        match dice.below(6) {
            0 => Fault::Silent,
            1 => Fault::Fail,
            2 => Fault::Append(bytes),
            3 => Fault::Repeat(at, bytes),
            4 => Fault::Cut(at, 1),
            _ => Fault::Drop(at, bytes),
        }
    }

    /// A bit where the format has structure: what is within a definition or a row nobody can tell
    /// from what was meant.
    fn flip(dice: &mut Dice, world: &World, contents: &Contents) -> Fault {
        const HEADER: u64 = 11;
        const TAIL: u64 = 5;
        let mut dump = world.cluster.tool("pg_dump");
        let database = crate::harness::postgres::conninfo(&contents.database);
        let file = world.home.home().join("flip.dump");
        crate::harness::process::must(dump.args(["-Fc", "-Z0", "-d", &database, "-f"]).arg(&file));
        let length = fs::metadata(&file).unwrap().len();
        let at = dice.below(HEADER + TAIL);
        let at = if at < HEADER { at } else { length - TAIL + (at - HEADER) };
        Fault::Flip(at, u8::try_from(dice.below(8)).unwrap())
    }

    fn moment(dice: &mut Dice) -> Moment {
        match dice.below(3) {
            0 => Moment::AtStop(dice.small(1000)),
            1 => Moment::Files(usize::try_from(dice.below(8)).unwrap() + 1),
            _ => Moment::After(dice.below(400)),
        }
    }

    fn network(dice: &mut Dice) -> (Network, NetworkRule) {
        let fault = match dice.below(6) {
            0 => Network::slow_down(),
            1 => Network::Answer(500, "", "<Error><Code>InternalError</Code></Error>".into()),
            2 => Network::CutRequest(dice.below(20_000)),
            3 => Network::CutAnswer(dice.below(300)),
            4 => Network::SwallowAnswer,
            _ => Network::BlackHole,
        };
        let rule = match (&fault, dice.below(3)) {
            (Network::BlackHole, _) => {
                NetworkRule::Next(dice.small(3) + 1, dice.pick::<&str>(&["", "PUT"]))
            }
            (_, 0) => NetworkRule::Percent(dice.below(60) + 5),
            _ => NetworkRule::Next(
                dice.small(6) + 1,
                dice.pick::<&str>(&["", "PUT", "POST", "GET", "HEAD", "DELETE"]),
            ),
        };
        (fault, rule)
    }

    /// Whether the run has to succeed all the same.
    pub(super) fn is_harmless(&self, contents: &Contents) -> bool {
        match self {
            Self::Nothing => true,
            Self::Early(sql) => {
                !contents.tables.is_empty()
                    && ["DELETE", "INSERT", "UPDATE"].iter().any(|verb| sql.starts_with(verb))
            }
            _ => false,
        }
    }

    /// Whether the database is another afterwards.
    pub(super) const fn changes_database(&self) -> bool {
        matches!(self, Self::Early(_) | Self::During(_))
    }

    /// Runs the job with the trouble, to whatever end.
    pub(super) fn carry_out(&self, world: &mut World, job: &Job, contents: &Contents) -> Ran {
        match self {
            Self::Nothing | Self::FullDisk => Running::start(&world.home, &job.name).end(),
            Self::Program(fault) => {
                world.liar.set(fault);
                Running::start(&world.home, &job.name).end()
            }
            Self::Stall(at) => {
                world.liar.set(&Fault::Hang(*at));
                Running::start(&world.home, &format!("{}-stall", job.name)).end()
            }
            Self::Signal(signal, moment) => signalled(world, job, *signal, moment),
            Self::Crash(at) => {
                world.liar.set(&Fault::Midway(*at));
                let mut running = Running::start(&world.home, &job.name);
                wait_stopped(world, &mut running);
                // The cluster commits without waiting for its WAL: what was just made would be lost
                // with the crash, and be missing from a backup that is right.
                world.cluster.psql("postgres", "CHECKPOINT");
                world.cluster.stop_immediate();
                world.cluster.start_again();
                world.liar.release();
                running.end()
            }
            Self::Early(sql) => {
                world.liar.set(&Fault::Late);
                let mut running = Running::start(&world.home, &job.name);
                wait_stopped(world, &mut running);
                // Some cannot be had of that table: then nothing happens.
                drop(world.cluster.try_psql(&contents.database, sql));
                world.liar.release();
                running.end()
            }
            Self::During(sql) => {
                world.liar.set(&Fault::Midway(1));
                let mut running = Running::start(&world.home, &job.name);
                wait_stopped(world, &mut running);
                thread::scope(|scope| {
                    let changed = scope.spawn(|| world.cluster.try_psql(&contents.database, sql));
                    eventually("a session that waits or has ended", PATIENCE, || {
                        let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
                        let waits = !world.cluster.psql("postgres", waits).is_empty();
                        (waits || changed.is_finished()).then_some(())
                    });
                    world.liar.release();
                    drop(changed.join().unwrap());
                });
                running.end()
            }
            Self::Network(fault, rule) => {
                match rule {
                    NetworkRule::Percent(percent) => world.chaos.chance(*percent, fault.clone()),
                    NetworkRule::Next(times, method) => {
                        world.chaos.next(*times, method, "", fault.clone());
                    }
                }
                Running::start(&world.home, &job.name).end()
            }
        }
    }
}

/// Waits until pg_dump stands still, or the run has ended without it.
fn wait_stopped(world: &World, running: &mut Running) {
    eventually("a dump that stands still", PATIENCE, || {
        (world.liar.is_stopped() || running.has_ended()).then_some(())
    });
}

fn signalled(world: &World, job: &Job, signal: Signal, moment: &Moment) -> Ran {
    let at = if let Moment::AtStop(at) = moment { Fault::Hang(*at) } else { Fault::None };
    world.liar.set(&at);
    let mut running = Running::start(&world.home, &job.name);
    match moment {
        Moment::AtStop(_) => wait_stopped(world, &mut running),
        Moment::Files(count) => {
            // Without a pause: a commit takes some milliseconds.
            while world.files().len() < *count && !running.has_ended() {
                thread::yield_now();
            }
        }
        Moment::After(milliseconds) => thread::sleep(Duration::from_millis(*milliseconds)),
    }
    if !running.has_ended() {
        kill_process(Pid::from_child(&running.child), signal).unwrap();
    }
    running.end()
}
