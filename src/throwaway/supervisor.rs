//! The shell that runs Postgres and outlives this process by the moment it takes to clean up.

use super::error::Error;
use super::user::User;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

const SCRIPT: &str = include_str!("supervise.sh");

/// What the supervisor can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Start,
    Stop,
    Crash,
}

/// What the supervisor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Ready,
    Stopped,
    Failed,
}

/// The supervising process; dropping it ends the server and waits until its folder is gone.
#[derive(Debug)]
pub(super) struct Supervisor {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Option<BufReader<ChildStdout>>,
}

impl Supervisor {
    /// Starts the supervisor, which creates the cluster; [`Command::Start`] then starts Postgres.
    /// It has its own process group: Ctrl-C in the terminal is for this process to handle.
    pub(super) fn spawn(
        bin: &Path,
        folder: &Path,
        auth: &str,
        user: Option<&User>,
    ) -> Result<Self, Error> {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", SCRIPT, "pgsegue-postgres"]).arg(bin).arg(folder).arg(auth);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.current_dir(folder).process_group(0).env("LC_ALL", "C").env("HOME", folder);
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(user) = user {
            user.run(&mut command);
        }
        let mut child = command.spawn().map_err(Error::io("cannot run sh in", folder))?;
        let (commands, answers) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Ok(Self { child, commands, answers })
    }

    /// Sends one command and waits for its answer.
    pub(super) fn ask(&mut self, command: Command) -> Result<Answer, Error> {
        let line = match command {
            Command::Start => "start\n",
            Command::Stop => "stop\n",
            Command::Crash => "crash\n",
        };
        let mut answer = String::new();
        self.exchange(line, &mut answer)
            .map_err(Error::io("lost the supervisor of", Path::new("postgres")))?;
        Ok(match answer.trim() {
            "ready" => Answer::Ready,
            "stopped" => Answer::Stopped,
            _ => Answer::Failed,
        })
    }

    fn exchange(&mut self, line: &str, answer: &mut String) -> std::io::Result<()> {
        if let Some(commands) = &mut self.commands {
            commands.write_all(line.as_bytes())?;
        }
        if let Some(answers) = &mut self.answers {
            answers.read_line(answer)?;
        }
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.commands.take());
        // The supervisor ends by itself when its input ends; nothing is left to do if it is gone.
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, create_folder, find, free_port, settings};
    use super::*;
    use crate::throwaway::user;

    #[test]
    fn whoever_ends_before_the_answer_leaves_nothing() {
        let user = User::for_postgres().unwrap();
        let bin = find::binaries(user.as_ref()).unwrap();
        let folder = create_folder(user.as_ref()).unwrap();
        let port = free_port().unwrap();
        for (name, text) in
            [("settings", settings(&Options::default(), port)), ("log", String::new())]
        {
            std::fs::write(folder.join(name), text).unwrap();
            user::give(&folder.join(name), user.as_ref()).unwrap();
        }
        let mut supervisor = Supervisor::spawn(&bin, &folder, "trust", user.as_ref()).unwrap();
        supervisor.commands.as_mut().unwrap().write_all(b"start\n").unwrap();
        drop(supervisor.answers.take());
        drop(supervisor);
        assert!(!folder.exists(), "{} is left", folder.display());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
