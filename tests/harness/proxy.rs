//! A network that fails on command: a proxy before a server, which passes on, waits,
//! swallows answers, hangs, or is gone.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the proxy does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Passes it on.
    Fair,
    /// Takes connections and passes nothing on, and never says so: half open.
    Hanging,
    /// Passes a request on and drops the answer, with its connection; then it is fair again.
    AnswerLost,
    /// The same, but then it is gone.
    AnswerLostForGood,
    /// Ends connections and takes no new ones.
    Gone,
}

/// A proxy; it ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    weather: AtomicU8,
    delay_us: AtomicU64,
    /// How often the direction turned from client to server: the round trips.
    turns: AtomicU64,
    /// Connections made so far, and how many of them pass nothing on for ever.
    made: AtomicU64,
    frozen: AtomicU64,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy before a port of the loopback, in fair weather.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            weather: AtomicU8::new(Weather::Fair as u8),
            delay_us: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            made: AtomicU64::new(0),
            frozen: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let accepting = shared.clone();
        // Ends when the proxy is dropped, which connects once more.
        std::thread::spawn(move || accepting.accept(&listener));
        Self { port: own, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::SeqCst);
        if weather == Weather::Gone {
            self.shared.cut();
        }
    }

    /// How long each answer is held back.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_us.store(u64::try_from(delay.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// Ends all connections; new ones may come at once.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Lets the connections that there are hang, on both sides, until the proxy ends: what a
    /// machine leaves behind that loses its power. New ones may come.
    pub fn freeze(&self) {
        self.shared.streams.lock().unwrap().clear();
        self.shared.frozen.store(self.shared.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// How often a client has sent something after the server had, or at first.
    pub fn round_trips(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        match self.weather.load(Ordering::SeqCst) {
            0 => Weather::Fair,
            1 => Weather::Hanging,
            2 => Weather::AnswerLost,
            3 => Weather::AnswerLostForGood,
            _ => Weather::Gone,
        }
    }

    fn cut(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            if self.weather() == Weather::Gone {
                continue;
            }
            let Ok(server) = TcpStream::connect(self.server) else { continue };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
                self.streams.lock().unwrap().push(stream.try_clone().unwrap());
            }
            let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
            let asked = Arc::new(AtomicBool::new(false));
            self.pass(client.try_clone().unwrap(), server.try_clone().unwrap(), number, asked.clone(), true);
            self.pass(server, client, number, asked, false);
        }
    }

    /// Passes on in one direction, in a thread that ends with the connection.
    fn pass(
        self: &Arc<Self>,
        mut from: TcpStream,
        mut to: TcpStream,
        number: u64,
        asked: Arc<AtomicBool>,
        request: bool,
    ) {
        let shared = self.clone();
        let frozen = move |shared: &Self| number <= shared.frozen.load(Ordering::SeqCst);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if request && !asked.swap(true, Ordering::SeqCst) {
                    shared.turns.fetch_add(1, Ordering::SeqCst);
                }
                if !request {
                    asked.store(false, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(shared.delay_us.load(Ordering::SeqCst)));
                }
                match shared.weather() {
                    _ if frozen(&shared) => continue,
                    Weather::Fair => {}
                    Weather::AnswerLost | Weather::AnswerLostForGood if request => {}
                    Weather::Hanging => continue,
                    Weather::AnswerLost => {
                        shared.weather.store(Weather::Fair as u8, Ordering::SeqCst);
                        break;
                    }
                    Weather::AnswerLostForGood => {
                        shared.weather.store(Weather::Gone as u8, Ordering::SeqCst);
                        shared.cut();
                        break;
                    }
                    Weather::Gone => break,
                }
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            while frozen(&shared) && !shared.ended.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
