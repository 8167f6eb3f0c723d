/** The driver's own serialiser of parameter values; `@types/pg` leaves it out. */
declare module 'pg/lib/utils.js' {
  export function prepareValue(value: unknown): string | Buffer | null
}
