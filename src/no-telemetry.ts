/**
 * From 1.29, ONNX Runtime as it is published tells its makers of each process, model and session, and keeps an id for that
 * in the user's cache (https://github.com/microsoft/onnxruntime/pull/27379). Here nothing leaves a machine that its owner did
 * not send. It looks once, as it is loaded, at the environment of the process, of which a thread has only a copy: so whoever
 * loads it imports this before, and whoever starts threads does, too.
 */
process.env.ORT_DISABLE_TELEMETRY ??= '1';
