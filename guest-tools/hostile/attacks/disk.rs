//! Fills the disk in every way. Wanted: `succeeded`, with a refusal
//! (`"refused"`) well before the host's disk is full or has no inode left; the
//! same space can be used again once the files are gone. Those that the quota
//! would stop too late may end as `timed_out` instead.
#![cfg(target_arch = "wasm32")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;
use wasip2::clocks::wall_clock::Datetime;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{DescriptorFlags, NewTimestamp, OpenFlags, PathFlags};

hostile::attacks!("disk", run);

const MANY: u64 = 1_000_000;
const TIB: u64 = 1 << 40;

fn run(attack: &str) -> Outcome {
    match attack {
        "sparse" => report(File::create("/sparse").and_then(|file| file.set_len(TIB)).map(|()| TIB)),
        "sparse_write" => report(write_far()),
        // Of a file that a client brought, and that is larger than a tool may make one.
        "inside_large" => report(write_inside(1_536 << 20)),
        "fill" => {
            repeat(|_| OpenOptions::new().create(true).append(true).open("/fill")?.write_all(&vec![b'x'; 1 << 20]))
        }
        "many_files" => repeat(|n| File::create(format!("/many-{n}")).map(drop)),
        // Names that replace nothing must give nothing back.
        "renames" => {
            let renamed = fs::write("/same", b"x").and_then(|()| {
                fs::hard_link("/same", "/link")?;
                (0..1_000).try_for_each(|_| {
                    fs::rename("/same", "/same")?;
                    fs::rename("/same", "/link")
                })
            });
            match renamed {
                Ok(()) => repeat_to(500, |n| File::create(format!("/many-{n}")).map(drop)),
                Err(error) => report(Err(error)),
            }
        }
        "many_directories" => repeat(|n| fs::create_dir(format!("/dir-{n}"))),
        // Of more than one file: a file system has a bound of its own for the names of each.
        "many_links" => repeat(|n| {
            let file = format!("/file-{}", n / 1_000);
            if n % 1_000 == 0 {
                File::create(&file)?;
            }
            fs::hard_link(file, format!("/link-{n}"))
        }),
        // Each one deeper: whoever walks or deletes this must not recurse.
        "deep" => {
            let mut path = String::from("/deep");
            repeat(|_| {
                path.push_str("/d");
                fs::create_dir_all(&path)
            })
        }
        // Each within the largest that a file may be; nothing is written.
        "many_sparse" => repeat(|n| File::create(format!("/sparse-{n}"))?.set_len(1 << 30)),
        // Higher than any path may be long, and than most processes have descriptors:
        // no path that it names is, but each time the whole tower is moved below new
        // stairs. The tests then list it, and delete it.
        "tower" => tower(4_800),
        // Times that no calendar has; who lists the directory must bear them.
        "times" => times(),
        "long_name" => report(File::create(format!("/{}", "n".repeat(10_000))).map(|_| 1)),
        // The names are gone, the space is not. Large ones, since the C library
        // has no more than about 120 files open.
        "unlinked" => {
            let mut kept = Vec::new();
            repeat(|n| {
                let path = format!("/unlinked-{n}");
                let mut file = File::create(&path)?;
                (0..32).try_for_each(|_| file.write_all(&vec![b'x'; 1 << 20]))?;
                kept.push(file);
                fs::remove_file(path)
            })
        }
        // Written and removed within the quota for ever: ends by itself.
        "churn" => repeat_to(10_000, |_| {
            fs::write("/churn", vec![b'x'; 64 << 10])?;
            fs::remove_file("/churn")
        }),
        // Has the disk written to for ever, for whose time nobody is charged.
        "sync" => repeat_to(u64::MAX, |n| {
            let mut file = OpenOptions::new().write(true).open("/file")?;
            file.write_all(&vec![n as u8; 1 << 20])?;
            file.sync_data()
        }),
        _ => hostile::unknown(attack),
    }
}

fn tower(height: usize) -> Outcome {
    /// Names of one path, within what may be.
    const STAIRS: usize = 16;
    let path = vec!["s".repeat(250); STAIRS].join("/");
    for n in 0..height / STAIRS {
        let under = path.replacen('s', &format!("{}", n % 2), 1);
        let (below, top) = (format!("{under}/tower"), under.split('/').next().unwrap_or_default());
        let moved = fs::create_dir_all(&under)
            .and_then(|()| if n == 0 { fs::create_dir(&below) } else { fs::rename("/tower", &below) })
            .and_then(|()| fs::rename(top, "/tower"));
        if let Err(error) = moved {
            return hostile::survived(&json!({ "done": n * STAIRS, "refused": true, "got": error.to_string() }));
        }
    }
    hostile::survived(&json!({ "done": height, "refused": false }))
}

fn times() -> Outcome {
    let root = get_directories().pop().expect("the workspace").0;
    let seconds = [0, 1, u64::MAX, i64::MAX as u64, 1 << 62, 253_402_300_800, 1 << 35, 1 << 34];
    let got: Vec<String> = seconds
        .iter()
        .enumerate()
        .map(|(n, seconds)| {
            let name = format!("time-{n}");
            let rights = DescriptorFlags::READ | DescriptorFlags::WRITE;
            let made = root.open_at(PathFlags::empty(), &name, OpenFlags::CREATE, rights);
            let time = |nanoseconds| NewTimestamp::Timestamp(Datetime { seconds: *seconds, nanoseconds });
            // The second has more nanoseconds than a second.
            let set = root.set_times_at(PathFlags::empty(), &name, time(0), time(0));
            let odd = root.set_times_at(PathFlags::empty(), &name, time(u32::MAX), time(u32::MAX));
            let read = root.stat_at(PathFlags::empty(), &name).map(|stat| stat.data_modification_timestamp);
            format!("{:?} {set:?} {odd:?} {read:?}", made.err())
        })
        .collect();
    hostile::survived(&json!({ "got": got }))
}

fn write_far() -> io::Result<u64> {
    let mut file = File::create("/far")?;
    file.seek(SeekFrom::Start(TIB))?;
    file.write_all(b"x")?;
    Ok(TIB)
}

fn write_inside(position: u64) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).open("/large")?;
    file.seek(SeekFrom::Start(position))?;
    file.write_all(b"x")?;
    Ok(position)
}

fn repeat(act: impl FnMut(u64) -> io::Result<()>) -> Outcome {
    repeat_to(MANY, act)
}

fn repeat_to(times: u64, mut act: impl FnMut(u64) -> io::Result<()>) -> Outcome {
    if File::create("/file").is_err() {
        return hostile::survived(&json!({ "done": 0, "refused": true, "got": "no file at all" }));
    }
    for n in 0..times {
        if let Err(error) = act(n) {
            return hostile::survived(&json!({ "done": n, "refused": true, "got": error.to_string() }));
        }
    }
    hostile::survived(&json!({ "done": times, "refused": false }))
}

fn report(result: io::Result<u64>) -> Outcome {
    match result {
        Ok(done) => hostile::survived(&json!({ "done": done, "refused": false })),
        Err(error) => hostile::survived(&json!({ "done": 0, "refused": true, "got": error.to_string() })),
    }
}
