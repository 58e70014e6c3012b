//! Starting a `tercetd` that ends when we do.
//!
//! A child asks the kernel for a signal at its parent's death before it becomes `tercetd`. Between
//! fork and exec only the child can ask, and Rust calls that unsafe; so the child is `tercet-bench`
//! itself, with a hidden command that asks, takes its CPUs, and execs.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The hidden command of `tercet-bench` that becomes another program.
pub const LAUNCH: &str = "__launch";

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its output goes; appended to.
    pub log: PathBuf,
    /// The CPUs that it may use; empty = all of ours.
    pub cpus: Vec<usize>,
}

impl Launch {
    /// Starts it, through `launcher` when there is one.
    ///
    /// # Errors
    /// When the program or the log can't be opened.
    pub fn start(&self, launcher: Option<&Path>) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match launcher {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
                let parent = std::process::id().to_string();
                command.args([LAUNCH, &parent, &cpus.join(",")]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        // A group of its own: Ctrl-C is for us, and we stop it in order.
        command.args(&self.arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
    }
}

/// Becomes another program, as [`Launch::start`] asked: `PARENT CPUS PROGRAM ARGUMENTS...`. Comes back
/// only when that fails.
pub fn become_program(arguments: &[String]) -> io::Error {
    let [parent, cpus, program, rest @ ..] = arguments else {
        return io::Error::new(io::ErrorKind::InvalidInput, "too few arguments");
    };
    let term = rustix::process::Signal::TERM;
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(term)) {
        return error.into();
    }
    let living = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if living.as_ref() != Some(parent) {
        return io::Error::other("the parent is gone already");
    }
    let cpus: Vec<usize> = cpus.split(',').filter_map(|cpu| cpu.parse().ok()).collect();
    if let Err(error) = take_cpus(&cpus) {
        return error;
    }
    Command::new(program).args(rest).exec()
}

/// Moves the calling thread, and what it will start, onto `cpus`; none = leaves it where it is.
///
/// # Errors
/// When there are no such CPUs.
pub fn take_cpus(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        if *cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such CPU"));
        }
        set.set(*cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The CPUs that this thread may use.
pub fn usable_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// A program that stands beside this one, or one directory up (tests run in `deps`).
pub fn beside_us(name: &str) -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    let near = me.parent()?;
    let places = [near.join(name), near.parent()?.join(name)];
    places.into_iter().find(|place| place.is_file())
}
