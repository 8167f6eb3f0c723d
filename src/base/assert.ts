/** A message; as a function where it has values in it and is asked for so often that writing it would cost more than the rest. */
type Message = string | (() => string)

/** A broken assertion is a bug in Holdfast, never an operating condition. */
export function assert(condition: unknown, message: Message): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${typeof message === 'string' ? message : message()}`)
}

/** The value, which by the argument in `message` is always there. */
export function present<T>(value: T | null | undefined, message: Message): T {
  assert(value !== null && value !== undefined, message)
  return value
}

/** The end of an exhaustive `switch`: compiles only when every case is handled. */
export function unreachable(value: never): never {
  throw new Error(`assertion failed: unreachable case ${JSON.stringify(value)}`)
}
