//! Two hundred clients at once: for a few seconds, or for `FIREBRICK_CROWD_SECONDS`.

use super::*;

const CLIENTS: usize = 200;
/// What allocators and buffers keep for the next crowd.
const GROWTH: usize = 24 << 20;
/// Other tests of this process may take memory at the same time; what leaks does so every time.
const ROUNDS: usize = 3;

/// Bytes of this process in memory, where the system says.
fn memory() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

fn crowd(server: &Running, time: Duration) -> (usize, usize) {
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (answered, refused) = (&answered, &refused);
            scope.spawn(move || {
                let mut turn = client;
                while Instant::now() < end {
                    turn += 1;
                    let words = format!("client {client} turn {turn}");
                    let asked = with(chat(&words), "stream", turn % 2 == 0);
                    let mut open = Open::post(server.address, "/v1/chat/completions", &asked);
                    if turn % 17 == 0 {
                        open.leave();
                        continue;
                    }
                    let said = if turn % 2 == 0 {
                        let (status, _) = open.head().expect("an answer");
                        match status {
                            200 => {
                                let events = std::iter::from_fn(|| open.event()).take_while(|event| event != "[DONE]");
                                let chunks = events.map(|event| serde_json::from_str::<Value>(&event).unwrap());
                                let texts = chunks.map(|chunk| {
                                    chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
                                });
                                Some(texts.collect::<String>())
                            }
                            429 => None,
                            other => panic!("status {other}"),
                        }
                    } else {
                        let answer = open.answer().expect("an answer");
                        match answer.status {
                            200 => answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned),
                            429 => {
                                assert!(answer.header("retry-after").is_some());
                                None
                            }
                            other => panic!("status {other}: {}", answer.text()),
                        }
                    };
                    match said {
                        Some(said) => {
                            assert_eq!(said, format!("You said: {words}"));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        None => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                }
            });
        }
    });
    (count(&answered), count(&refused))
}

#[test]
fn two_hundred_clients_get_answers_or_429_and_leave_nothing_behind() {
    let settings = ServeSettings { slots: 16, queue: 100, ..ServeSettings::default() };
    let server = Running::with(settings, Echo::slow(Duration::from_millis(2)));
    let seconds = std::env::var("FIREBRICK_CROWD_SECONDS").ok().map(|seconds| seconds.parse().expect("whole seconds"));
    // The first crowd warms up what is kept on purpose.
    crowd(&server, Duration::from_secs(2));
    server.is_well();
    let mut sizes = Vec::new();
    for _ in 0..ROUNDS {
        let before = memory();
        let (answered, refused) = crowd(&server, Duration::from_secs(seconds.unwrap_or(4)));
        assert!(answered > CLIENTS && refused > 0, "{answered} answered, {refused} refused");
        assert!(count(&server.counts.most_active) <= 16);
        server.is_well();
        until("the backend is idle", || count(&server.counts.active) == 0);
        // This request's own.
        until("all connections are closed", || server.metric("firebrick_connections") == 1.0);
        let (Some(before), Some(after)) = (before, memory()) else { return };
        println!("{answered} answered, {refused} refused; from {} to {} KiB", before >> 10, after >> 10);
        if after < before + GROWTH {
            return;
        }
        sizes.push((before, after));
    }
    panic!("memory grew every time, from and to: {sizes:?} bytes");
}
