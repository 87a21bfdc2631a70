//! Small uploads: files of 1 KiB, each with a name of its own, beside what the disk
//! alone does: write, sync, rename, sync of the directory.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Connection, Figures};
use super::host::Host;

const CLIENTS: [usize; 3] = [1, 16, 64];
const SIZE: usize = 1_024;

pub fn report(span: Duration) {
    println!(
        "\n== uploads of {SIZE} bytes: PUT /v1/tasks/…/files/…, each a file, an event and an entry of its history"
    );
    let host = Host::start(&[]);
    for clients in CLIENTS {
        let disk = in_parallel(clients, span, |thread| {
            let directory = host.data().join(format!("baseline-{clients}-{thread}"));
            std::fs::create_dir(&directory).unwrap();
            move |number| alone(&directory, number)
        });
        let task = host.task();
        let commits = host.commits();
        let uploads = in_parallel(clients, span, |thread| {
            let mut connection = Connection::open(&host.address);
            let (host, task) = (&host, &task);
            move |number| {
                let path = format!("/v1/tasks/{task}/files/d{thread}/f{number}");
                connection.send(&host.request("PUT", &path, "application/octet-stream", &[b'x'; SIZE]));
            }
        });
        let each = (host.commits() - commits) as f64 / uploads.count as f64;
        println!("{clients:>3} at once, the disk alone: {}", disk.line());
        println!(
            "{clients:>3} clients: {}; {each:.2} commits each; {:.2} of the disk alone",
            uploads.line(),
            uploads.per_second / disk.per_second
        );
    }
}

/// Does something as often as it goes, so many at once.
fn in_parallel<W: FnMut(usize) + Send>(at_once: usize, span: Duration, make: impl Fn(usize) -> W) -> Figures {
    let work: Vec<W> = (0..at_once).map(make).collect();
    let begun = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = work
            .into_iter()
            .map(|mut work| {
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while begun.elapsed() < span {
                        let started = Instant::now();
                        work(times.len());
                        times.push(started.elapsed());
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    Figures::of(times, begun.elapsed())
}

fn alone(directory: &Path, number: usize) {
    let (temporary, path) = (directory.join("new"), directory.join(format!("f{number}")));
    let mut file = File::create(&temporary).unwrap();
    file.write_all(&[b'x'; SIZE]).unwrap();
    file.sync_all().unwrap();
    std::fs::rename(&temporary, &path).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
}
