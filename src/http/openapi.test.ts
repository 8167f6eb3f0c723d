import { describe, expect, test } from 'vitest'
import { openApiOf } from './openapi.ts'
import { apiRoutes } from './routes.ts'

const document = JSON.stringify(openApiOf(apiRoutes))

describe('the OpenAPI document', () => {
  test('is of version 3.1 and describes every route of the API', () => {
    const { openapi, paths } = JSON.parse(document)
    expect(openapi).toBe('3.1.0')
    for (const { method, path, summary } of apiRoutes) {
      expect(paths[path][method.toLowerCase()]).toMatchObject({ summary, responses: { 200: { description: 'Done.' } } })
    }
  })

  test('has every part of a path as a required parameter', () => {
    const { paths } = JSON.parse(document)
    expect(paths['/v1/transactions/{id}'].get.parameters).toEqual([
      { name: 'id', in: 'path', required: true, schema: { type: 'string' } },
    ])
  })

  test('has the form that checks a body as the schema of that body', () => {
    const { paths } = JSON.parse(document)
    const { schema } = paths['/v1/transactions'].post.requestBody.content['application/json']
    expect(schema.required).toEqual(['tenant', 'action', 'subject', 'actor', 'statements'])
    expect(schema.additionalProperties).toBe(false)
  })

  test('refers to nothing that it does not hold', () => {
    const { components } = JSON.parse(document)
    const references = [...document.matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)]
    expect(references.length).toBeGreaterThan(0)
    for (const [, kind, name] of references) expect(components[String(kind)]).toHaveProperty(String(name))
  })
})
