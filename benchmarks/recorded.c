/* A Triton backend that answers at once, whatever it is given: candidates of one picture, for every picture.
 *
 *     cc -O2 -shared -fPIC -o libtriton_recorded.so recorded.c    with candidates.h beside it, which recorded.py writes
 *
 * Like TensorRT's backend it gathers the batch in memory of its own, and computes nothing then. The declarations are
 * those of Triton's tritonbackend.h, the little of it that is used.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "candidates.h" /* an array for each output, by its name, and how many: CANDIDATES */

typedef struct TRITONBACKEND_ModelInstance Instance;
typedef struct TRITONBACKEND_Request Request;
typedef struct TRITONBACKEND_Response Response;
typedef struct TRITONBACKEND_Input Input;
typedef struct TRITONBACKEND_Output Output;
typedef struct TRITONSERVER_Error Error;

enum { TYPE_INT32 = 8, TYPE_FP32 = 11 };
enum { MEMORY_CPU = 0 };
enum { COMPLETE_FINAL = 1, RELEASE_ALL = 1 };

Error *TRITONBACKEND_ModelInstanceSetState(Instance *, void *);
Error *TRITONBACKEND_ModelInstanceState(Instance *, void **);
Error *TRITONBACKEND_RequestInputByIndex(Request *, uint32_t index, Input **);
Error *TRITONBACKEND_InputProperties(
    Input *, const char **name, int *type, const int64_t **shape, uint32_t *dimensions, uint64_t *bytes, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(
    Input *, uint32_t index, const void **buffer, uint64_t *bytes, int *memory, int64_t *memory_id);
Error *TRITONBACKEND_ResponseNew(Response **, Request *);
Error *TRITONBACKEND_ResponseOutput(
    Response *, Output **, const char *name, int type, const int64_t *shape, uint32_t dimensions);
Error *TRITONBACKEND_OutputBuffer(Output *, void **buffer, uint64_t bytes, int *memory, int64_t *memory_id);
Error *TRITONBACKEND_ResponseSend(Response *, uint32_t flags, Error *);
Error *TRITONBACKEND_RequestRelease(Request *, uint32_t flags);
Error *TRITONBACKEND_ModelInstanceReportStatistics(
    Instance *, Request *, int success, uint64_t start, uint64_t compute_start, uint64_t compute_end, uint64_t end);
Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    Instance *, uint64_t batch, uint64_t start, uint64_t compute_start, uint64_t compute_end, uint64_t end);

/* Grows to the largest batch that came. */
typedef struct {
    char *batch;
    uint64_t size;
} State;

#define TRY(call)                    \
    do {                             \
        Error *error = (call);       \
        if (error != NULL) return error; \
    } while (0)

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

Error *TRITONBACKEND_ModelInstanceInitialize(Instance *instance) {
    return TRITONBACKEND_ModelInstanceSetState(instance, calloc(1, sizeof(State)));
}

Error *TRITONBACKEND_ModelInstanceFinalize(Instance *instance) {
    State *state;
    TRY(TRITONBACKEND_ModelInstanceState(instance, (void **)&state));
    free(state->batch);
    free(state);
    return NULL;
}

/* Copies the pictures of one request behind those before; says how many there are. */
static Error *gather(State *state, Request *request, uint64_t *used, int64_t *pictures) {
    Input *input;
    const int64_t *shape;
    uint64_t bytes;
    uint32_t buffers;
    TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
    TRY(TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, NULL, &bytes, &buffers));
    *pictures = shape[0];
    if (*used + bytes > state->size) {
        state->size = *used + bytes;
        state->batch = realloc(state->batch, state->size);
        if (state->batch == NULL) abort();
    }
    for (uint32_t i = 0; i < buffers; i++) {
        const void *buffer;
        int memory = MEMORY_CPU;
        int64_t id = 0;
        TRY(TRITONBACKEND_InputBuffer(input, i, &buffer, &bytes, &memory, &id));
        memcpy(state->batch + *used, buffer, bytes);
        *used += bytes;
    }
    return NULL;
}

/* `dimensions` with the batch and the candidates. */
static Error *answer(
    Response *response, const char *name, int type, int64_t pictures, uint32_t dimensions, const void *recorded,
    uint64_t bytes) {
    const int64_t shape[] = {pictures, CANDIDATES, 4};
    Output *output;
    char *buffer;
    int memory = MEMORY_CPU;
    int64_t id = 0;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, dimensions));
    TRY(TRITONBACKEND_OutputBuffer(output, (void **)&buffer, (uint64_t)pictures * bytes, &memory, &id));
    for (int64_t i = 0; i < pictures; i++) memcpy(buffer + (uint64_t)i * bytes, recorded, bytes);
    return NULL;
}

#define ANSWER(name, type, dimensions) answer(response, #name, type, pictures, dimensions, name, sizeof name)

static Error *respond(Request *request, int64_t pictures) {
    Response *response;
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    TRY(ANSWER(candidate_boxes, TYPE_FP32, 3));
    TRY(ANSWER(candidate_scores, TYPE_FP32, 2));
    TRY(ANSWER(candidate_labels, TYPE_INT32, 2));
    return TRITONBACKEND_ResponseSend(response, COMPLETE_FINAL, NULL);
}

Error *TRITONBACKEND_ModelInstanceExecute(Instance *instance, Request **requests, uint32_t count) {
    State *state;
    TRY(TRITONBACKEND_ModelInstanceState(instance, (void **)&state));
    const uint64_t start = now();
    uint64_t used = 0, batch = 0;
    int64_t pictures[count];
    for (uint32_t i = 0; i < count; i++) {
        TRY(gather(state, requests[i], &used, &pictures[i]));
        batch += (uint64_t)pictures[i];
    }
    const uint64_t gathered = now();
    for (uint32_t i = 0; i < count; i++) {
        TRY(respond(requests[i], pictures[i]));
        TRY(TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[i], 1, start, gathered, gathered, now()));
        TRY(TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL));
    }
    return TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, batch, start, gathered, gathered, now());
}
