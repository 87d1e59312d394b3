//! The traffic: clients that read and write without a pause for longer than the think time, and
//! what they measured.

use super::error::Error;
use super::history::{CLIENTS, History, Ledger};
use super::operations;
use super::random::Random;
use super::scene::{Board, Scene};
use super::speaker::{Answer, Manner, Speaker, Sql};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What clients do between two operations, at most: without it, eight of them would use every
/// core, and the latencies would be those of the queue before the processor.
const THINK_MS: i32 = 5;
/// Half of the clients hold their prepared statements for the whole demo.
const MANNERS: [Manner; 8] = [
    Manner::Held,
    Manner::Held,
    Manner::Held,
    Manner::Held,
    Manner::PerCall,
    Manner::Unnamed,
    Manner::Simple,
    Manner::Simple,
];

/// Running clients. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Load {
    board: Arc<Board>,
    stop: CancellationToken,
    clients: JoinSet<Client>,
}

/// What all clients together have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) scenes: Vec<Latencies>,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) ledger: Ledger,
    /// Statements run, statements failed, wrong answers that the incident explains.
    pub(super) counts: (u64, u64, u64),
}

/// Microseconds of every statement of one scene.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
}

impl Latencies {
    fn for_each_scene() -> Vec<Self> {
        let empty = || Histogram::new_with_bounds(1, 60_000_000, 3).ok();
        let pair = || Some(Self { reads: empty()?, writes: empty()? });
        Scene::ALL.iter().filter_map(|_| pair()).collect()
    }
}

impl Load {
    /// Connects all clients and lets them begin.
    pub(super) async fn start(conninfo: &str, board: Arc<Board>) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for (number, manner) in (0..CLIENTS).zip(MANNERS) {
            let speaker = Speaker::connect(conninfo, manner).await?;
            let client = Client::new(number, speaker, Arc::clone(&board));
            clients.spawn(client.work(stop.clone()));
        }
        Ok(Self { board, stop, clients })
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// Lets every client end its operation, and collects what they have seen.
    pub(super) async fn end(mut self) -> Result<Seen, Error> {
        self.stop.cancel();
        let mut seen = Seen { scenes: Latencies::for_each_scene(), ..Seen::default() };
        while let Some(client) = self.clients.join_next().await {
            let client = client?;
            seen.ledger.add(&client.history);
            for (all, own) in seen.scenes.iter_mut().zip(&client.scenes) {
                // All have the same bounds.
                all.reads.add(&own.reads).ok();
                all.writes.add(&own.writes).ok();
            }
            for (message, count) in client.failures {
                *seen.failures.entry(message).or_default() += count;
            }
        }
        seen.counts = self.board.counts();
        Ok(seen)
    }
}

/// One client.
pub(super) struct Client {
    speaker: Speaker,
    board: Arc<Board>,
    scenes: Vec<Latencies>,
    failures: BTreeMap<String, u64>,
    pub(super) history: History,
    pub(super) random: Random,
}

impl Client {
    fn new(number: i32, speaker: Speaker, board: Arc<Board>) -> Self {
        Self {
            speaker,
            board,
            scenes: Latencies::for_each_scene(),
            failures: BTreeMap::new(),
            history: History::new(number),
            random: Random::new(u64::try_from(number).unwrap_or(0)),
        }
    }

    async fn work(mut self, stop: CancellationToken) -> Self {
        while !stop.is_cancelled() && !self.speaker.is_closed() {
            operations::any(&mut self).await;
            let think = self.random.below(THINK_MS) + 1;
            sleep(Duration::from_millis(u64::try_from(think).unwrap_or(1))).await;
        }
        if !stop.is_cancelled() {
            self.fail("the connection was closed".to_owned());
        }
        self
    }

    /// Runs, times and counts one statement; none when it failed.
    pub(super) async fn run(&mut self, sql: Sql, values: &[i32]) -> Option<Answer> {
        let scene = self.board.scene();
        let began = Instant::now();
        let answer = self.speaker.run(sql, values).await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.board.ran();
        match answer {
            Ok(answer) => {
                let place = Scene::ALL.iter().position(|s| *s == scene).unwrap_or(0);
                if let Some(latencies) = self.scenes.get_mut(place) {
                    let kind =
                        if sql.is_read() { &mut latencies.reads } else { &mut latencies.writes };
                    kind.saturating_record(took);
                }
                Some(answer)
            }
            Err(reason) => {
                self.fail(format!("{sql:?}: {reason}"));
                None
            }
        }
    }

    /// BEGIN and the like: counted, but neither reads nor writes.
    pub(super) async fn steer(&mut self, text: &str) -> Option<()> {
        let done = self.speaker.steer(text).await;
        self.board.ran();
        done.map_err(|reason| self.fail(format!("{text}: {reason}"))).ok()
    }

    /// A statement that failed, or answered what cannot be.
    pub(super) fn fail(&mut self, message: String) {
        self.board.failed();
        *self.failures.entry(message).or_default() += 1;
    }

    /// The scene now, to be taken before a read whose answer is checked.
    pub(super) fn scene(&self) -> Scene {
        self.board.scene()
    }

    /// A read that did not answer what this client wrote.
    pub(super) fn read_wrong(&mut self, scene: Scene, what: &str) {
        if scene.may_be_wrong() {
            self.board.read_wrong();
        } else {
            self.fail(format!("wrong answer ({}): {what}", scene.name()));
        }
    }
}
