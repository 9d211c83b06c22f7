//! The stream of Envoy's external processing, with the client of `envoy-types`.

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::{
    self as pb, BodyMutation, CommonResponse, HttpBody, HttpHeaders, HttpTrailers,
    StreamedBodyResponse, body_mutation::Mutation,
    external_processor_client::ExternalProcessorClient, processing_request::Request,
    processing_response::Response,
};
use tokio_stream::wrappers::ReceiverStream;
use tollgate::{app::App, config, listener::Address, observe};

use super::clients::channel;

const CONFIG: &str = r#"
audit: { to: none }
listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0", access_log: "unix:${DIR}/access-log.sock", ext_proc: "unix:${DIR}/ext-proc.sock" }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
routes: [{ match: { paths: [/health] }, public: true }]
"#;

#[tokio::test]
async fn every_message_is_answered_as_envoy_expects_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let env = |name: &str| (name == "DIR").then(|| path.clone());
    let loaded = config::compile(CONFIG, &env).unwrap();
    let socket = Address::Unix(dir.path().join("ext-proc.sock"));
    let app = App::start(loaded, Arc::new(observe::now)).await.unwrap();
    let channel = channel(&socket).await;
    let mut client = ExternalProcessorClient::new(channel);
    let body = |body: &str, end_of_stream| HttpBody {
        body: body.into(),
        end_of_stream,
        ..HttpBody::default()
    };
    let streamed = |text: &str, end_of_stream| {
        let mutation = Mutation::StreamedResponse(StreamedBodyResponse {
            body: text.into(),
            end_of_stream,
            ..StreamedBodyResponse::default()
        });
        let body_mutation = Some(BodyMutation { mutation: Some(mutation) });
        let response = CommonResponse { body_mutation, ..CommonResponse::default() };
        Response::ResponseBody(pb::BodyResponse { response: Some(response) })
    };
    let headers = HttpHeaders::default;
    let trailers = HttpTrailers::default;
    // The messages of one response, with the answer to each; the last one has none.
    for exchange in [
        vec![(
            Some(Request::ResponseTrailers(trailers())),
            Some(Response::ResponseTrailers(pb::TrailersResponse::default())),
        )],
        vec![
            (
                Some(Request::RequestHeaders(headers())),
                Some(Response::RequestHeaders(pb::HeadersResponse::default())),
            ),
            (
                Some(Request::ResponseHeaders(headers())),
                Some(Response::ResponseHeaders(pb::HeadersResponse::default())),
            ),
            (Some(Request::ResponseBody(body("one", false))), Some(streamed("one", false))),
            (Some(Request::ResponseBody(body("", true))), Some(streamed("", true))),
        ],
        vec![
            (
                Some(Request::ResponseBody(body("one", true))),
                Some(Response::ResponseBody(pb::BodyResponse::default())),
            ),
            // A message of a later version is not known, and the stream ends.
            (None, None),
        ],
    ] {
        let (messages, stream) = tokio::sync::mpsc::channel(4);
        let (first, first_answer) = exchange[0].clone();
        let message = |request| pb::ProcessingRequest { request, ..Default::default() };
        messages.send(message(first)).await.unwrap();
        let answers = client.process(ReceiverStream::new(stream)).await.unwrap();
        let mut answers = answers.into_inner();
        let found = answers.message().await.unwrap().and_then(|answer| answer.response);
        assert_eq!(found, first_answer);
        for (request, expected) in exchange[1..].iter().cloned() {
            messages.send(message(request)).await.unwrap();
            let found = answers.message().await.unwrap().and_then(|answer| answer.response);
            assert_eq!(found, expected);
        }
        drop(messages);
        assert!(answers.message().await.unwrap().is_none(), "a status, not a reset");
    }
    app.stop().await;
}
