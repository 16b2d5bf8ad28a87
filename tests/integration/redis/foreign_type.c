/* A module for Valkey with a type of its own: FOREIGN.SET key makes a key of it. Without the header of the modules'
 * interface, which no package brings: what is used of it is declared here. */

#include <stdint.h>

static int (*get_api)(const char *name, void *target);
static void (*set_attributes)(void *context, const char *name, int version, int api);
static void *(*create_type)(void *context, const char *name, int encoding, void *methods);
static int (*create_command)(void *context, const char *name, void *function, const char *flags, int first, int last,
                             int step);
static void *(*open_key)(void *context, void *name, int mode);
static int (*set_value)(void *key, void *type, void *value);
static void (*close_key)(void *key);
static int (*reply)(void *context, const char *text);

static struct {
    uint64_t version;
    void *load, *save, *rewrite, *usage, *digest, *release;
} methods;
static void *type;
static int value;

static void *load(void *io, int encoding) {
    (void)io, (void)encoding;
    return &value;
}

static void save(void *io, void *of) { (void)io, (void)of; }

static void release(void *of) { (void)of; }

static int foreign_set(void *context, void **arguments, int count) {
    if (count != 2) return 1;
    void *key = open_key(context, arguments[1], 3);
    set_value(key, type, &value);
    close_key(key);
    return reply(context, "OK");
}

int RedisModule_OnLoad(void *context, void **arguments, int count) {
    (void)arguments, (void)count;
    get_api = (int (*)(const char *, void *))((void **)context)[0];
    get_api("RedisModule_SetModuleAttribs", &set_attributes);
    get_api("RedisModule_CreateDataType", &create_type);
    get_api("RedisModule_CreateCommand", &create_command);
    get_api("RedisModule_OpenKey", &open_key);
    get_api("RedisModule_ModuleTypeSetValue", &set_value);
    get_api("RedisModule_CloseKey", &close_key);
    get_api("RedisModule_ReplyWithSimpleString", &reply);
    set_attributes(context, "foreign", 1, 1);
    methods.version = 1;
    methods.load = (void *)load;
    methods.save = (void *)save;
    methods.release = (void *)release;
    type = create_type(context, "forgntype", 0, &methods);
    return type ? create_command(context, "foreign.set", (void *)foreign_set, "write", 1, 1, 1) : 1;
}
