//! The life of a server process: build, announce, serve, stop on a signal.

use std::io::Write as _;

use bulkhead_core::tool::ToolState;
use tokio::signal::unix::{SignalKind, signal};

use super::{App, StartError, system};
use crate::config::{Auth, Config};

/// Runs a host until it gets SIGINT or SIGTERM.
///
/// # Errors
/// Why it can't start, or what ended it.
pub async fn serve(config: Config) -> Result<(), StartError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("the handler of SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("the handler of SIGTERM"))?;
    let app = App::build(&config).await?;
    let url = format!("http://{}", app.address);
    say(&format!("Bulkhead {} listens on {url} (data: {})", env!("CARGO_PKG_VERSION"), config.data.display()));
    let key = app.first_key.clone();
    if let Some(key) = &key {
        say(&format!("API key, shown this once: {key}"));
    }
    let api = app.api.clone();
    let builtin = config.tools.builtin;
    // The server answers while the built-in tools are compiled: the first
    // start takes some seconds for them, every other none.
    let registering = async {
        if !builtin {
            return;
        }
        match app_builtins(&api).await {
            Ok((ready, rejected)) => {
                say(&format!(
                    "Built-in tools: {ready} ready{}",
                    if rejected == 0 {
                        String::new()
                    } else {
                        format!(", {rejected} rejected (see `bulkhead tools list`)")
                    }
                ));
                first_call(&url, key.as_deref(), config.auth);
            }
            Err(error) => tracing::error!(error = %error, "the built-in tools could not be registered"),
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(app.serve(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // The receiver is below; if it is gone the server has ended already.
        let _ = stop.send(());
    }));
    tokio::select! {
        () = registering => {}
        _ = stopped => {}
    }
    serving.await.map_err(std::io::Error::other).map_err(system("the server"))?
}

/// Registers the built-in tools and waits until each is ready or rejected.
async fn app_builtins(api: &crate::http::Api) -> Result<(usize, usize), bulkhead_core::Error> {
    let tools = &api.services.tools;
    let mut registered = Vec::new();
    for builtin in crate::builtin::all() {
        let (owner, size) = (bulkhead_core::tool::ToolOwner::Operator, builtin.size as u64);
        registered.push(tools.register_as(owner, builtin.digest, size, || builtin.component()).await?);
    }
    let compiling = registered.iter().filter(|(tool, _)| matches!(tool.state, ToolState::Compiling)).count();
    if compiling > 0 {
        say(&format!("Compiling {compiling} built-in tools, this once …"));
    }
    let (mut ready, mut rejected) = (0, 0);
    for (tool, _) in registered {
        match tools.settled(tool.id).await?.state {
            ToolState::Ready { .. } => ready += 1,
            ToolState::Compiling | ToolState::Rejected { .. } => rejected += 1,
        }
    }
    Ok((ready, rejected))
}

fn first_call(url: &str, key: Option<&str>, auth: Auth) {
    let export = match (key, auth) {
        (Some(key), _) => format!("  export BULKHEAD_KEY={key}\n"),
        (None, Auth::Off) => String::new(),
        (None, Auth::Required) => "  export BULKHEAD_KEY=…   # `bulkhead keys create` makes one\n".into(),
    };
    let auth = if auth == Auth::Off { "" } else { " -H \"authorization: Bearer $BULKHEAD_KEY\"" };
    say(&format!(
        "\nTry it: a task, a call in it, and the task's events.\n\n{export}\
         \x20 TASK=$(curl -s {url}/v1/tasks{auth} -H 'content-type: application/json' -d '{{}}' | grep -o 'task_[0-9a-z]*' | head -1)\n\
         \x20 curl -s {url}/v1/tasks/$TASK/calls{auth} -H 'content-type: application/json' \\\n\
         \x20   -d '{{\"tool\": \"write_file\", \"arguments\": {{\"path\": \"hello.txt\", \"content\": \"Hello, Bulkhead\\n\"}}}}'; echo\n\
         \x20 curl -sN --max-time 2 {url}/v1/tasks/$TASK/events{auth}\n"
    ));
}

/// Tells the operator, on standard output. A closed one is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
