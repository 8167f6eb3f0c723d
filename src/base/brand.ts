declare const brand: unique symbol

/** A type of its own over a plain one: a number that means something is not a `number`. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name }
