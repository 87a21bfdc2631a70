//! The sections of the configuration: each key once, with its type, default,
//! bounds and reason.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choices::{Always, Auth, Cgroup, Isolation, KernelQuota, LogFormat, OwnUsers, Rule, Synchronous};
use super::keys::{Key, Kind};
use crate::tokens::Issuer;
use bulkhead_core::reached::{MOST_ARGUMENTS_BYTES, MOST_COMPONENT_BYTES};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const HOUR_MS: u64 = 3_600_000;
const DECADE_MS: u64 = 10 * 365 * 24 * HOUR_MS;

/// Shorthand for the table below.
const fn number(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Number { unit, min, max }
}

macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident = $section:literal {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr, $kind:expr;)*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                section: $section, field: stringify!($field), kind: $kind, doc: concat!($($doc),*),
            },)*];
        }
    };
}

/// The keys at the top; their fields are in [`super::Config`].
pub(super) const TOP: &[Key] = &[
    Key {
        section: "",
        field: "data",
        kind: Kind::Path,
        doc: "Directory of everything that lasts: database, workspaces, components and their compiled artefacts. It is made if it is not there, for its owner alone.",
    },
    Key {
        section: "",
        field: "listen",
        kind: Kind::Address,
        doc: "Address and port of the HTTP server. Loopback by default: a server that was started without thought is not reachable from outside.",
    },
    Key {
        section: "",
        field: "auth",
        kind: Auth::KIND,
        doc: "Whether requests need an API key. `off` makes everybody who reaches the port the first user, so it is refused unless `listen` is a loopback address.",
    },
];

pub(super) fn default_data() -> PathBuf {
    PathBuf::from("./bulkhead-data")
}

pub(super) fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7300))
}

section! {
    /// The HTTP server.
    Http = "http" {
        /// Origins whose pages may use the API from a browser: `https://app.example.com`. Empty: no browser lets a page of another origin use the API.
        cors_origins: Vec<String> = Vec::new(), Kind::List("origin");
        /// Largest JSON body of a request. Bodies are held in memory whole while they are parsed.
        max_body_bytes: u64 = MIB, number("bytes", KIB, 64 * MIB);
        /// Largest file that a client may write into a workspace by one request. It is streamed to the disk, so this protects the disk, not the memory.
        max_upload_bytes: u64 = 256 * MIB, number("bytes", KIB, 64 * GIB);
        /// Requests that are being answered at once, downloads until they are sent; more are refused with 503. A user has no more of them than are left for others (429 `too_many_requests`): at most half. Event streams are not among them (`http.streams_per_user`). Each takes memory and a descriptor.
        max_concurrent_requests: u64 = 1024, number("requests", 1, 100_000);
        /// Time without an event after which a stream sends a comment, so that proxies do not take it for dead. Most of them give up after 60 seconds.
        heartbeat_ms: u64 = 15_000, number("milliseconds", 100, HOUR_MS);
        /// How long a client may take nothing of what was sent to it; then its stream ends, at the latest after twice as long its connection is cut. It goes on after the last event it has.
        stall_ms: u64 = 30_000, number("milliseconds", 1_000, HOUR_MS);
        /// Event streams of one user at once; more are refused with 429. Each holds a descriptor and a cursor.
        streams_per_user: u64 = 100, number("streams", 1, 100_000);
        /// How long an event stream lasts; then the client comes again and shows its key, which may have been revoked.
        stream_age_ms: u64 = HOUR_MS, number("milliseconds", 1_000, 24 * HOUR_MS);
        /// How long the request that makes a call waits for its end, if it does not say. Most calls end sooner, and their result needs no second request.
        wait_default_ms: u64 = 30_000, number("milliseconds", 0, HOUR_MS);
        /// Longest time that a request may ask to wait for the end of a call. Proxies break off requests that take longer.
        wait_max_ms: u64 = 60_000, number("milliseconds", 0, HOUR_MS);
        /// How long requests are still answered once the server is asked to stop, while `/readyz` says that it does: longer than a balancer takes to notice. 0: not at all.
        drain_notice_ms: u64 = 0, number("milliseconds", 0, 600_000);
    }
}

section! {
    /// How many calls run and wait, and how their output is stored.
    Dispatch = "dispatch" {
        /// Calls running at once, in total: each holds an instance's memory.
        running: u64 = 256, number("calls", 1, 10_000);
        /// Calls running at once per owner, so that one leaves room for others.
        running_per_owner: u64 = 64, number("calls", 1, 10_000);
        /// Calls running at once per tenant, however many users it has, so that one leaves room for others. Those beyond wait in their queues. How many one worker process runs at once is `workers.calls_per_worker`.
        running_per_tenant: u64 = 128, number("calls", 1, 10_000);
        /// Calls waiting at once, in total: each is a row and an entry in memory. More are refused with 429.
        queued: u64 = 1024, number("calls", 0, 1_000_000);
        /// Calls waiting at once of one owner, so that one can't fill the queue of all.
        queued_per_owner: u64 = 256, number("calls", 0, 1_000_000);
        /// Calls waiting at once in one task. Calls that change a workspace run one after the other, so a long queue means a long wait.
        queued_per_task: u64 = 64, number("calls", 0, 100_000);
        /// How long output is collected before it is stored: one commit for many small writes. Longer delays what a client sees.
        coalesce_ms: u64 = 10, number("milliseconds", 0, 1_000);
        /// How much output is collected before it is stored at once. Larger makes larger events.
        coalesce_bytes: u64 = 32 * KIB, number("bytes", KIB, MIB);
        /// How long running calls may go on once the server is stopping; then they are stopped: those of idempotent tools start again later, others are `interrupted`. Keep it below the time that your supervisor waits before it kills.
        drain_ms: u64 = 10_000, number("milliseconds", 0, HOUR_MS);
        /// Largest text of a call's arguments. They are stored with the call and copied into the guest; the world of tools promises no more than the default.
        max_arguments_bytes: u64 = MOST_ARGUMENTS_BYTES, number("bytes", 2, MOST_ARGUMENTS_BYTES);
    }
}

section! {
    /// The worker processes, which run the guests.
    Workers = "workers" {
        /// How far workers are kept apart. `required`: a worker serves one tenant and reaches its workspaces alone; the server does not start if this machine lacks a part of the wall around workers (Landlock, seccomp, …; `bulkhead doctor` tells). `strict`: the same, and a worker serves one task and reaches its workspace alone: a process and some milliseconds more for each task in use. `best-effort`: guests run behind what there is.
        isolation: Isolation = Isolation::Required, Isolation::KIND;
        /// Workers of one tenant at most; 0 means one per processor core. With strict isolation each task has one, and a tenant half of `max`. A worker runs its guests on one thread.
        per_tenant: u64 = 0, number("processes", 0, 1_024);
        /// Workers of all tenants together at most; each takes some 15 MB and reserves addresses.
        max: u64 = 256, number("processes", 1, 10_000);
        /// Processes that wait beside those to become workers, so that the first call of a tenant does not wait for one to start; each takes some 2 MB until then.
        waiting: u64 = 1, number("processes", 0, 64);
        /// Calls at once in one worker; they take turns of a millisecond. Each slot reserves 4 GiB of addresses per memory, without using them.
        calls_per_worker: u64 = 64, number("calls", 1, 1_000);
        /// Memory of all calls of one worker together. A worker that was taken over can't take more from the machine.
        memory_per_worker_bytes: u64 = 4 * GIB, number("bytes", 64 * MIB, 1024 * GIB);
        /// Memory of all workers and compilers together, where control groups bound it (`workers.cgroup`); 0 means three quarters of what the machine, or the group that the server's groups are made in, has. When it runs out the kernel ends the largest worker, and nothing else on the machine.
        memory_bytes: u64 = 0, number("bytes", 0, 64 * 1024 * GIB);
        /// How long a worker without a call stays, so that the next call finds it warm. Starting one takes a few milliseconds.
        idle_ms: u64 = 30_000, number("milliseconds", 0, 24 * HOUR_MS);
        /// How old a worker gets: then it takes no further call, another one takes its place, and it ends with its last call. What a guest may have done to a process unnoticed ends with it.
        max_age_ms: u64 = HOUR_MS, number("milliseconds", 60_000, 30 * 24 * HOUR_MS);
        /// How long after a call's time is up its worker may say nothing; then the process is killed, with the other calls it runs. Workers look at the clock every millisecond.
        kill_grace_ms: u64 = 40, number("milliseconds", 10, 60_000);
        /// How long a worker may take to come up or to load a component. More on slow disks.
        start_timeout_ms: u64 = 10_000, number("milliseconds", 100, 600_000);
        /// How long workers may take to end when the server stops; then they are killed.
        shutdown_grace_ms: u64 = 2_000, number("milliseconds", 0, 60_000);
        /// Whether each worker has a user of its own, who owns no file but sees its workspaces as its own. `auto`: if the server is root and its data lies on a file system that can show files as another's (ext4, xfs, btrfs); `bulkhead doctor` tells. What an operator gives to another user or group in a workspace can't be written to by tools then. `off`: workers have the server's user.
        own_users: OwnUsers = OwnUsers::Auto, OwnUsers::KIND;
        /// Whether control groups bound workers and compilers: memory and threads of each. `auto`: in the server's own group if that was handed to it (`Delegate=yes` of systemd, or the topmost group of a container); `bulkhead doctor` tells which. `off`: none.
        cgroup: Cgroup = Cgroup::Auto, Cgroup::KIND;
        /// A group to use instead of the server's own, as `/proc/self/cgroup` would write it: `/bulkhead`. It must be there, without processes, and this user must be able to make groups in it.
        cgroup_parent: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// Whether control groups also share the processor evenly between tenants, however many workers each has. Within its share a tenant's short calls go before its long ones, but no longer before those of others: the slowest calls beside a tenant that computes get slower.
        cgroup_cpu: bool = false, Kind::Switch;
        /// Added to the niceness of workers, so that the server answers while guests compute. At 10, two spinning guests on two cores make a neighbour's slowest calls of a hundred some 2.8 times as slow; at 5 four times; at 19 twice, for a sixth of the throughput.
        nice: u64 = 10, number("steps", 0, 19);
    }
}

section! {
    /// Tools: what may be registered, and what compiling it may cost.
    Tools = "tools" {
        /// Largest component that may be registered. It is stored, and compiling takes memory in proportion.
        max_component_bytes: u64 = MOST_COMPONENT_BYTES, number("bytes", KIB, MOST_COMPONENT_BYTES);
        /// Processor time for compiling one component. A component can be made to compile for hours.
        compile_cpu_s: u64 = 30, number("seconds", 1, 3_600);
        /// Memory for compiling one component. Code of a few megabytes can take gigabytes.
        compile_memory_bytes: u64 = 2 * GIB, number("bytes", 256 * MIB, 64 * GIB);
        /// Components compiled at once; each takes a core and up to `compile_memory_bytes`.
        compile_at_once: u64 = 1, number("components", 1, 64);
        /// Whether the built-in tools are offered to every tenant.
        builtin: bool = true, Kind::Switch;
    }
}

section! {
    /// Filling new workspaces from git and archives.
    Import = "import" {
        /// Directories of this machine below which repositories may be cloned by path; absolute. Empty: only `https://` URLs. Every tenant may read what lies there.
        git_local_roots: Vec<PathBuf> = Vec::new(), Kind::List("absolute path");
        /// Bytes of all files of an import. Archives can unpack to a thousand times their size.
        max_bytes: u64 = GIB, number("bytes", KIB, 1024 * GIB);
        /// Files, directories and links of an import. Each takes an inode, and time when the workspace is removed.
        max_entries: u64 = 200_000, number("entries", 1, 10_000_000);
        /// Imports at once; each is a process, and git may take a gigabyte.
        at_once: u64 = 4, number("imports", 1, 64);
        /// Longest time that an import may take. A slow source holds a process.
        timeout_ms: u64 = 300_000, number("milliseconds", 100, HOUR_MS);
    }
}

mod held;

pub use held::{FileRules, Lifecycle, Quota};

section! {
    /// How often principals may do what, evenly over a minute. 0: as often as they like.
    Rates = "rate" {
        /// Requests of one user in a minute, of any kind but cancelling; more are refused with 429.
        requests_per_user: u64 = 0, number("requests a minute", 0, 100_000_000);
        /// Requests in a minute of all users of a tenant together.
        requests_per_tenant: u64 = 0, number("requests a minute", 0, 100_000_000);
        /// Calls of one user in a minute; more are refused with 429. How many run and wait at once is the business of `dispatch`.
        calls_per_user: u64 = 0, number("calls a minute", 0, 100_000_000);
        /// Calls in a minute of all users of a tenant together.
        calls_per_tenant: u64 = 0, number("calls a minute", 0, 100_000_000);
        /// How much of a minute's allowance may come at once, after a pause. All that comes later comes at the even rate.
        burst_percent: u64 = 10, number("percent", 1, 100);
    }
}

section! {
    /// What tools may use beyond computing.
    PolicyFile = "policy" {
        /// The policy's file. Without one, a tool gets its task's workspace and nothing else. It is read again when it changes, with the files of secrets that it names.
        file: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// Time between two looks whether the policy has changed. Calls that were granted more than a new one grants are ended.
        reload_ms: u64 = 1_000, number("milliseconds", 50, HOUR_MS);
    }
}

section! {
    /// The network, for tools that are granted HTTP.
    EgressLimits = "egress" {
        /// Certificates of authorities, in PEM, that are trusted besides those that the machine trusts.
        ca_file: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// Connections at once, idle ones among them; each holds a descriptor and up to about a MiB.
        max_connections: u64 = 256, number("connections", 1, 65_536);
        /// Connections at once of one tenant. Who has as many as are left to others gets no more: a tenant beside all
        /// others, a user beside its tenant's. So one that is alone has half of them.
        max_connections_per_tenant: u64 = 128, number("connections", 1, 65_536);
        /// How long an idle connection is kept for the next request of the same user to the same host.
        idle_ms: u64 = 30_000, number("milliseconds", 0, HOUR_MS);
    }
}

section! {
    /// The database.
    Store = "store" {
        /// When a commit counts as done. `full`: once it is on the disk, so what was acknowledged survives a loss of power; with PostgreSQL, as its own `synchronous_commit` says. `off`: once the operating system has it, so it survives a crash of the server only; many times faster on slow disks. PostgreSQL, if it crashes, may then lose what it acknowledged in its last second.
        synchronous: Synchronous = Synchronous::Full, Synchronous::KIND;
        /// Commands that may wait to be written; more wait for a second, then are refused with 503.
        queue: u64 = 1_024, number("commands", 1, 100_000);
        /// SQLite: connections for reading; each has a thread and a cache of 8 MiB.
        readers: u64 = 4, number("connections", 1, 64);
        /// SQLite: how long to wait for another process that writes to the database, for instance `bulkhead keys create`.
        busy_timeout_ms: u64 = 5_000, number("milliseconds", 0, 60_000);
        /// PostgreSQL: connections at once, and one more that renews this host's lease. Each is a process there, of some 10 MB; more than a few for each of its cores make it slower.
        connections: u64 = 16, number("connections", 1, 1_000);
        /// PostgreSQL: how long an operation waits for a connection; then it is refused with 503. Longer hides from clients that the database can't keep up.
        acquire_timeout_ms: u64 = 2_000, number("milliseconds", 1, 60_000);
        /// PostgreSQL: how long making a connection may take, with its TLS and password.
        connect_timeout_ms: u64 = 3_000, number("milliseconds", 10, 60_000);
        /// PostgreSQL: how long one try of an operation may take, here and in the database, which ends what takes longer (`statement_timeout`; a lock is waited for four fifths of it, `lock_timeout`). With its tries and waits an operation takes a few times that at most.
        timeout_ms: u64 = 5_000, number("milliseconds", 50, 600_000);
        /// PostgreSQL: how long a connection that nobody needs is kept.
        idle_ms: u64 = 300_000, number("milliseconds", 0, 24 * HOUR_MS);
        /// PostgreSQL: failures in a row, of connections and of answers that do not come in time, after which the database is left alone: requests get 503 at once instead of waiting.
        breaker_failures: u64 = 5, number("failures", 1, 1_000);
        /// PostgreSQL: for how long it is left alone; then one operation looks whether it is back.
        breaker_open_ms: u64 = 1_000, number("milliseconds", 10, 600_000);
    }
}

section! {
    /// Several hosts on one PostgreSQL database.
    Cluster = "cluster" {
        /// Where other hosts reach this one, to pass requests on for tasks that are held here: in a private network, for what passes is not encrypted. Nothing: the address that is listened on, unless that stands for all of the machine's.
        advertise: String = String::new(), Kind::OptionalOrigin;
        /// A directory that several hosts reach, for the workspaces: then another host takes over the tasks of one that is gone, queued calls and all. Its filesystem must have locks, and renames that all hosts see at once (NFS 4, CephFS). Nothing: workspaces lie in `data`, and wait there for their host.
        volume: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// How long a host may go without renewing its lease before others take over what it holds. A third of it before the end it stops by itself what runs. Shorter finds dead hosts sooner, and stops more for a database that is away for a moment.
        lease_ms: u64 = 15_000, number("milliseconds", 3_000, 600_000);
        /// How long calls that never started wait for a host that is gone; then they end as `interrupted`.
        queued_grace_ms: u64 = 60_000, number("milliseconds", 0, 7 * 24 * HOUR_MS);
        /// Between two looks whether other hosts wrote to tasks that are followed here: so late may an event of another host be. One small query each time, if anything is followed.
        follow_ms: u64 = 200, number("milliseconds", 10, 60_000);
    }
}

section! {
    /// What the door in front of owned things does, rule by rule.
    Access = "access" {
        /// Whose a thing is. Stands here to say so: another's is not there, in no mode.
        ownership: Always = Always::Enforce, Kind::Always("enforce", "another owner's things are not there, in no mode; `scopes`, `expired_keys` and `admin_reason` can be `audit`");
        /// That an operation demands its scope. `grants:write`, `metrics:read`, `admin`, `operator:admin` and `operator:tools` are demanded in both modes: they reach past one's own things, or would let a model answer for its owner.
        scopes: Rule = Rule::Enforce, Rule::KIND;
        /// That an API key which has expired opens nothing. Revoked keys and expired tokens never do.
        expired_keys: Rule = Rule::Enforce, Rule::KIND;
        /// That an administrator says why, in `Bulkhead-Reason`, before another's thing is there. Each such access is on record in both modes.
        admin_reason: Rule = Rule::Enforce, Rule::KIND;
    }
}

section! {
    /// Redis between several hosts.
    Redis = "redis" {
        /// What all keys and channels begin with. Hosts of one database have the same; those of another database in the same Redis must have another one.
        prefix: String = "bulkhead".into(), Kind::Name;
        /// How long connecting, and an answer, may take. A Redis that is slower is left alone until it answers in time: nothing needs it.
        timeout_ms: u64 = 250, number("milliseconds", 10, 10_000);
        /// Newest events of each task that are kept there, for clients that come back soon; each batch of them up to 64 KiB.
        tail_events: u64 = 128, number("events", 1, 10_000);
        /// How long they are kept after the last of them.
        tail_ttl_s: u64 = 3_600, number("seconds", 1, 7 * 24 * 3_600);
    }
}

section! {
    /// Tokens of issuers elsewhere.
    Tokens = "tokens" {
        /// The URL that clients know this server by: the `resource` of `/.well-known/oauth-protected-resource` (RFC 9728), by which they find the issuers. Needed if there are issuers.
        resource: String = String::new(), Kind::OptionalUrl;
        /// Whose tokens are taken, up to 16.
        issuers: Vec<Issuer> = Vec::new(), Kind::Issuers;
        /// Age at which an issuer's keys are fetched again.
        refresh_s: u64 = 600, number("seconds", 1, 24 * 3_600);
        /// Age at which keys that could not be fetched again are believed no longer. So long an issuer may be away; so long a key that it withdrew in that time still counts.
        keep_s: u64 = 24 * 3_600, number("seconds", 1, 30 * 24 * 3_600);
        /// Time between two fetches because a token names a key that is not known. Shorter lets whoever makes up names make more traffic.
        again_s: u64 = 30, number("seconds", 1, 3_600);
        /// How long one fetch may take. A request whose token needs it waits for that.
        timeout_ms: u64 = 5_000, number("milliseconds", 10, 60_000);
    }
}

section! {
    /// How long things are kept.
    Keep = "keep" {
        /// Age after which an event is removed. A client that was away for longer can't resume its stream.
        events_hours: u64 = 7 * 24, number("hours", 1, 10 * 365 * 24);
        /// Bytes of events that a task keeps at most, the newest. A guest that prints all day must not fill the disk.
        events_bytes_per_task: u64 = 64 * MIB, number("bytes", 64 * KIB, 64 * GIB);
        /// Age after which the record of a deleted task is removed, with its calls and events. It counts from when its workspace went, see `lifecycle.keep_deleted_ms`.
        deleted_hours: u64 = 24, number("hours", 0, 10 * 365 * 24);
        /// Age after which an audit record is removed.
        audit_hours: u64 = 90 * 24, number("hours", 1, 10 * 365 * 24);
        /// Time between two rounds of removal. Each round removes a bounded amount.
        every_s: u64 = 60, number("seconds", 1, 24 * 3_600);
    }
}

section! {
    /// The audit log's heads, signed and exported.
    AuditHeads = "audit" {
        /// The key that signs the heads of the audit log's chains, for its owner alone; `audit.key` in `data` if empty. It is made at the first start. Who has it and the database can make both anew, so let it be where the database is not.
        key_file: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// Where signed heads are appended to `heads-YYYY-MM.jsonl`; `audit-heads` in `data` if empty. `bulkhead audit verify` finds by them that a chain was cut off, so let it be where who can change the database can't change them.
        export_dir: PathBuf = PathBuf::new(), Kind::OptionalPath;
        /// Time between two exports. Only chains that have grown are told; what came after the last export can be cut off unseen.
        export_every_s: u64 = 300, number("seconds", 1, 24 * 3_600);
        /// Time between two records of what was refused to strangers, and of what was refused again to a user: the first time is recorded before it is answered, and the like is counted from then on, so that nobody can make the server write by being refused.
        refusals_every_s: u64 = 15, number("seconds", 1, 3_600);
    }
}

section! {
    /// The log, on standard error.
    Log = "log" {
        /// How log lines look: `human` for people, `json` with one object a line for machines.
        format: LogFormat = LogFormat::Human, LogFormat::KIND;
        /// Which log lines are written: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels per module, `info,bulkhead=debug`. `BULKHEAD_LOG` and `--log` set it too.
        level: String = "info".into(), Kind::Filter;
    }
}

section! {
    /// What is not safe to have on unless it is wanted.
    Experimental = "experimental" {
        /// Whether components that need WASI 0.3 may be registered and called: asynchronous functions, streams and futures of components, and the interfaces cli, clocks, random and filesystem of 0.3. Workers of their own run them, behind the same walls and limits. The engine's side of it calls itself experimental and gets no patch releases for its security. Switched off again, such tools are refused.
        wasi_03: bool = false, Kind::Switch;
    }
}

/// The keys that follow those of the limits.
pub(super) fn rest() -> impl Iterator<Item = Key> {
    let sections = [
        Dispatch::KEYS,
        Workers::KEYS,
        Tools::KEYS,
        Import::KEYS,
        Quota::KEYS,
        FileRules::KEYS,
        Lifecycle::KEYS,
        Rates::KEYS,
        Access::KEYS,
        Tokens::KEYS,
        PolicyFile::KEYS,
        EgressLimits::KEYS,
        Store::KEYS,
        Cluster::KEYS,
        Redis::KEYS,
        Keep::KEYS,
        AuditHeads::KEYS,
        Log::KEYS,
        Experimental::KEYS,
    ];
    sections.into_iter().flatten().copied()
}
