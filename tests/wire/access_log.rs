//! The stream of Envoy's access log, with the client of `envoy-types`.

use std::sync::Arc;

use envoy_types::pb::envoy::{
    data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry},
    service::accesslog::v3::{
        self as pb,
        access_log_service_client::AccessLogServiceClient,
        stream_access_logs_message::{HttpAccessLogEntries, LogEntries},
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tollgate::{app::App, config, listener::Address, observe};
use tollgate_testkit::wait::until_async;

use super::clients::channel;

const CONFIG: &str = r#"
audit: { to: none }
listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0", access_log: "unix:${DIR}/access-log.sock" }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
routes: [{ match: { paths: [/health] }, public: true }]
"#;

#[tokio::test]
async fn a_stream_is_read_to_its_end_and_ends_with_tollgate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let env = |name: &str| (name == "DIR").then(|| path.clone());
    let loaded = config::compile(CONFIG, &env).unwrap();
    let socket = Address::Unix(dir.path().join("access-log.sock"));
    let app = App::start(loaded, Arc::new(observe::now)).await.unwrap();
    let channel = channel(&socket).await;
    let mut client = AccessLogServiceClient::new(channel);
    let message = |entries| pb::StreamAccessLogsMessage {
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: entries })),
        ..Default::default()
    };
    let (messages, stream) = tokio::sync::mpsc::channel(4);
    let answer =
        tokio::spawn(async move { client.stream_access_logs(ReceiverStream::new(stream)).await });
    let problems = |problem: &str| {
        let text = app.engine().observer().exposition(app.engine().status()).unwrap();
        let series = format!("tollgate_report_problems_total{{problem=\"{problem}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap().parse::<u64>().unwrap()
    };
    messages.send(message(vec![HttpAccessLogEntry::default(); 3])).await.unwrap();
    // Larger than a message may be: it is skipped, and the stream goes on.
    let cluster = "x".repeat(13 << 20);
    let common = AccessLogCommon { upstream_cluster: cluster, ..Default::default() };
    let large = HttpAccessLogEntry { common_properties: Some(common), ..Default::default() };
    messages.send(message(vec![large])).await.unwrap();
    messages.send(message(vec![HttpAccessLogEntry::default()])).await.unwrap();
    until_async("entries", async || (problems("no_reservation") == 4).then_some(())).await;
    assert_eq!(problems("too_large"), 1);
    assert!(!answer.is_finished());
    app.stop().await;
    assert!(answer.await.unwrap().is_ok(), "a status, not a reset");
}
